"""Indexes that cannot be opened or made are told of and left alone, and harm no other."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grace_server.index.catalog import TRASH, Catalog
from grace_server.index.collection import DATABASE, Collection
from grace_server.index.edges import Edges
from grace_server.index.errors import Conflict, StoreDamaged, StoreFull
from grace_server.index.gauges import show
from grace_server.index.snapshot import restore_snapshot, take_snapshot
from grace_server.metrics import Metrics
from tests.index.conftest import OpenService
from tests.index.filled import ROWS, SETTINGS, TWO, H, batch, filled


def change(folder: Path, sql: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as connection:
        connection.executescript(sql)


def edited(folder: Path) -> None:
    change(folder, "UPDATE migration SET sha256 = 'edited' || sha256")


def garbled(folder: Path) -> None:
    change(folder, "UPDATE setting SET value = 'many' WHERE key = 'dimensions'")


def unreadable(folder: Path) -> None:
    (folder / DATABASE).write_bytes(b"\0" * 100_000)


@pytest.mark.parametrize(("damage", "name_is_known"), [(edited, True), (garbled, True), (unreadable, False)])
async def test_a_damaged_index_is_left_alone_and_the_others_are_served(
    open_service: OpenService,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    name_is_known: bool,
) -> None:
    async with open_service() as service:
        for name in ("a", "b"):
            await service.http.put(f"/indexes/{name}")
        folder = service.indexes.catalog.get("a").folder
    damage(folder)
    kept = (folder / DATABASE).read_bytes()
    async with open_service() as service:
        assert [one["name"] for one in (await service.http.get("/indexes")).json()["data"]] == ["b"]
        written = await service.http.post("/indexes/b/documents", json=TWO)
        assert (written.status_code, written.json()["job"]["done"]) == (200, 2)
        for verb, path in (
            ("PUT", "/indexes/a"),
            ("GET", "/indexes/a"),
            ("DELETE", "/indexes/a"),
            ("GET", "/indexes/a/documents"),
        ):
            refused = await service.http.request(verb, path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_damaged")
            assert f"indexes/{folder.name}" in refused.json()["error"]["message"]
            assert str(tmp_path) not in refused.text
        # What is not there may be the one whose name cannot be read: nobody gets its name.
        assert (await service.http.put("/indexes/c")).status_code == (201 if name_is_known else 503)
        metrics = Metrics()
        show(service.indexes.catalog, metrics)
        assert metrics.registry.get_sample_value("grace_unopened_indexes") == 1
    assert f"left alone in {folder}" in caplog.text
    assert (folder / DATABASE).read_bytes() == kept


def test_an_alias_of_a_damaged_index_is_refused_until_it_is_given_to_another(tmp_path: Path) -> None:
    catalog, collection, _ = filled(tmp_path)
    catalog.create("b", SETTINGS, dimensions=H, fingerprint=None)
    catalog.set_alias("live", "a")
    catalog.close()
    edited(collection.folder)
    catalog = Catalog(tmp_path, Edges())
    with pytest.raises(StoreDamaged):
        catalog.get("live")
    with pytest.raises(Conflict):
        catalog.set_alias("a", "b")
    assert catalog.set_alias("live", "b") is catalog.get("live")
    with pytest.raises(StoreDamaged):
        catalog.remove_alias("live")  # it would be a's again as soon as that is repaired
    assert catalog.get("live").name == "b"
    catalog.close()
    change(collection.folder, "UPDATE migration SET sha256 = substr(sha256, 7)")
    catalog = Catalog(tmp_path, Edges())
    assert (catalog.get("a").name, catalog.get("live").name) == ("a", "b")
    catalog.close()


async def test_an_index_whose_file_is_damaged_meanwhile_hides_no_other(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise StoreDamaged("documents.sqlite is damaged")

    async with open_service() as service:
        for name in ("a", "b"):
            await service.http.put(f"/indexes/{name}")
        await service.http.put("/aliases/live", json={"index": "b"})
        monkeypatch.setattr(service.indexes.catalog.get("a").store, "read", damaged)
        job = (await service.http.post("/indexes/b/documents", json=TWO)).json()["job"]["id"]
        for path in (f"/jobs/{job}", "/indexes/b", "/indexes/live"):
            assert (await service.http.get(path)).status_code == 200
        for path in ("/jobs/none", "/indexes/a", "/indexes/none"):
            assert (await service.http.get(path)).status_code == 503
        monkeypatch.undo()


def created(catalog: Catalog, snapshot: Path) -> Collection:
    return catalog.create("b", SETTINGS, dimensions=H, fingerprint=None)


def restored(catalog: Catalog, snapshot: Path) -> Collection:
    return restore_snapshot(catalog, snapshot, "b")


@contextlib.contextmanager
def failing_at_the_end(monkeypatch: pytest.MonkeyPatch, catalog: Catalog, step: str) -> Iterator[None]:
    """The disk is full once a new collection has been given its place."""

    def refuse(folder: Path, *_: object) -> None:
        if step == "open" or folder == catalog.folder:
            raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as broken:
        if step == "open":
            broken.setattr(Collection, "open", refuse)
        else:
            broken.setattr("grace_server.index.catalog.sync_folder", refuse)
        with pytest.raises((OSError, StoreFull)):
            yield


@pytest.mark.parametrize("make", [created, restored])
@pytest.mark.parametrize("step", ["sync", "open"])
def test_an_index_whose_making_fails_at_the_end_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Catalog, Path], Collection], step: str
) -> None:
    catalog, collection, _ = filled(tmp_path)
    snapshot = tmp_path / "a.snapshot"
    take_snapshot(collection, snapshot, catalog.edges)
    with failing_at_the_end(monkeypatch, catalog, step):
        make(catalog, snapshot)
    assert [folder for folder in catalog.folder.iterdir() if folder.is_dir()] == [collection.folder]
    make(catalog, snapshot).upsert(batch(ROWS, 1))
    catalog.close()
    catalog = Catalog(tmp_path, Edges())
    assert [c.name for c in catalog] == ["a", "b"]
    assert catalog.get("b").get(f"d{ROWS}") is not None
    catalog.close()


def test_where_such_an_index_cannot_be_removed_either_its_name_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, _, _ = filled(tmp_path)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target.name.startswith(TRASH):
            raise OSError(errno.EIO, "input/output error")
        return rename(path, target)

    with monkeypatch.context() as broken, failing_at_the_end(monkeypatch, catalog, "sync"):
        broken.setattr(Path, "rename", refuse)
        created(catalog, tmp_path)
    with pytest.raises(StoreDamaged):
        created(catalog, tmp_path)
    catalog.close()
    catalog = Catalog(tmp_path, Edges())
    assert [c.name for c in catalog] == ["a", "b"]
    catalog.close()


@pytest.mark.parametrize("step", [1, -1], ids=["older first", "newer first"])
@pytest.mark.parametrize(("rows", "served"), [(0, "older"), (5, "newer")])
def test_of_two_indexes_of_one_name_the_one_with_documents_is_served_or_the_newest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: int, rows: int, served: str
) -> None:
    """The names of their folders are chance, and decide nothing."""
    ids = iter(range(1000, 1000 + 100 * step, step))
    catalog, older, _ = filled(tmp_path, Edges(new_id=lambda: f"{next(ids):032x}"))
    newer = catalog.create("b", SETTINGS, dimensions=H, fingerprint=None)
    if rows:
        newer.upsert(batch(0, rows))
    catalog.close()
    change(newer.folder, "UPDATE setting SET value = 'a' WHERE key = 'name'")
    folders = {"older": older.folder, "newer": newer.folder}
    for _ in range(2):
        catalog = Catalog(tmp_path, Edges())
        assert [c.folder for c in catalog] == [catalog.get("a").folder] == [folders[served]]
        [other] = catalog.unopened
        assert {other.folder, folders[served]} == set(folders.values())
        assert all(folder.name in caplog.text for folder in folders.values())
        catalog.close()
    catalog = Catalog(tmp_path, Edges())
    catalog.delete("a")  # and not the other one, nor is its name given away
    with pytest.raises(StoreDamaged, match="has the same name"):
        catalog.create("a", SETTINGS, dimensions=H, fingerprint=None)
    assert other.folder.exists()
    catalog.close()
