"""An alias names one index, whatever fails while it is switched to another."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from grace_server.index.catalog import Catalog
from grace_server.index.collection import DATABASE, Collection
from grace_server.index.edges import Edges
from grace_server.index.errors import IndexNotFound, StoreDamaged, StoreFull, StoreUnavailable
from grace_server.index.faults import FaultPoint
from tests.index.filled import SETTINGS, H
from tests.index.test_faults import Failing
from tests.index.test_unopened import change, edited

WAITING = replace(SETTINGS, durability="NORMAL")  # commits wait for a later fsync


@contextmanager
def opened(folder: Path, edges: Edges | None = None) -> Iterator[Catalog]:
    catalog = Catalog(folder, edges or Edges())
    try:
        yield catalog
    finally:
        catalog.close()


def two(catalog: Catalog) -> tuple[Collection, Collection]:
    """The alias `live` names `a`, and may come to name `b`."""
    a, b = (catalog.create(name, WAITING, dimensions=H, fingerprint=None) for name in ("a", "b"))
    catalog.set_alias("live", "a")
    return a, b


def cut_off(folder: Path) -> tuple[Path, Path]:
    """The folders of two indexes that both claim `live`: it was given to `b`, and could not be taken from `a`."""
    failing = Failing(FaultPoint.BEFORE_COMMIT, countdown=0)
    with opened(folder, Edges(faults=failing)) as catalog:
        a, b = two(catalog)
        failing.countdown = 2
        with pytest.raises(OSError, match="no space"):
            catalog.set_alias("live", "b")
        assert "live" in a.aliases()
        assert "live" in b.aliases()
        return a.folder, b.folder


def repaired(folder: Path) -> None:
    change(folder, "UPDATE migration SET sha256 = substr(sha256, 7)")


def test_the_new_claim_is_on_the_disk_before_the_old_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, seen = os.fsync, list[tuple[bool, bool]]()
    with opened(tmp_path) as catalog:
        a, b = two(catalog)
        log = (b.folder / f"{DATABASE}-wal").stat()

        def noted(file: int) -> None:
            if os.path.samestat(os.fstat(file), log):
                seen.append(("live" in a.aliases(), "live" in b.aliases()))
            fsync(file)

        monkeypatch.setattr(os, "fsync", noted)
        catalog.set_alias("live", "b")
        assert seen == [(True, True)]
        assert (list(a.aliases()), list(b.aliases())) == ([], ["live"])


def test_where_the_new_claim_cannot_be_made_durable_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    with opened(tmp_path) as catalog:
        a, b = two(catalog)
        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StoreUnavailable, match="input/output error"):
            catalog.set_alias("live", "b")
        assert "live" in a.aliases()
        assert catalog.get("live") is b


def test_a_store_whose_log_is_folded_in_has_nothing_to_make_durable(tmp_path: Path) -> None:
    with opened(tmp_path) as catalog:
        store = two(catalog)[0].store
        log = store.path.with_name(f"{DATABASE}-wal")
        store.close()
        assert not log.exists()
        store.sync()


def test_a_switch_that_was_cut_off_is_ended_by_the_next_start(tmp_path: Path) -> None:
    cut_off(tmp_path)
    with opened(tmp_path) as catalog:
        assert catalog.get("live").name == "b"
        assert not catalog.get("a").aliases()
        catalog.delete("b")
        with pytest.raises(IndexNotFound):
            catalog.get("live")


def test_where_the_disk_is_full_then_the_later_claim_decides(tmp_path: Path) -> None:
    def full(point: FaultPoint) -> None:
        if point is FaultPoint.BEFORE_COMMIT:
            raise StoreFull("the disk is full")

    cut_off(tmp_path)
    with opened(tmp_path, Edges(faults=full)) as catalog:
        assert catalog.get("live").name == "b"
        assert "live" in catalog.get("a").aliases()


def test_no_claim_is_lost_to_an_index_that_cannot_be_opened(tmp_path: Path) -> None:
    _, winner = cut_off(tmp_path)
    edited(winner)
    with opened(tmp_path) as catalog:
        with pytest.raises(StoreDamaged):
            catalog.get("live")
        assert "live" in catalog.get("a").aliases()
    repaired(winner)
    with opened(tmp_path) as catalog:
        assert catalog.get("live").name == "b"
        assert not catalog.get("a").aliases()


def test_a_claim_that_lost_goes_once_its_index_can_be_opened(tmp_path: Path) -> None:
    loser, _ = cut_off(tmp_path)
    edited(loser)
    with opened(tmp_path) as catalog:
        assert catalog.get("live").name == "b"
    repaired(loser)
    with opened(tmp_path) as catalog:
        assert not catalog.get("a").aliases()
        catalog.delete("b")
        with pytest.raises(IndexNotFound):
            catalog.get("live")
