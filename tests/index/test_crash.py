"""Killed at any moment, a collection has every acknowledged change, nothing half, and answers right.

GRACE_CRASH_ROUNDS sets how many random kills there are (200 for a release; the result is in docs/search.md), and
GRACE_CRASH_REPORT a file to which it is written what was cut off how often.
"""

from __future__ import annotations

import collections
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import numpy as np
import pytest

from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.edges import Edges
from grace_server.index.faults import FaultPoint
from grace_server.index.verify import Report, verify
from tests.index.crash_child import changes, move, vector_of, work
from tests.index.invariants import check_search
from tests.index.model import DictModel

ROUNDS = int(os.environ.get("GRACE_CRASH_ROUNDS", "8"))
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["tests.index.crash_child"])


def run_until_killed(
    folder: Path, ledger: Path, seed: int, seconds: float, *, die_at: str | None = None, after: int = 1
) -> None:
    child = CHILDREN.Process(target=work, args=(folder, ledger, seed, die_at, after))
    child.start()
    began = ledger.stat().st_size if ledger.exists() else 0
    deadline = time.monotonic() + 20
    while die_at is None and time.monotonic() < deadline and child.is_alive():
        if ledger.exists() and ledger.stat().st_size > began:
            break
        time.sleep(0.005)
    child.join(seconds)
    if child.is_alive():
        child.kill()
    child.join()
    assert child.exitcode == -9, "the child died of something else"


def acknowledged(before: DictModel, ledger: Path) -> tuple[DictModel, DictModel]:
    """What must be there, and what may be there instead: the last change may have been cut off before its receipt."""
    model, last = DictModel(dict(before.documents)), None
    for line in ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else ():
        try:
            kind, seed, number = json.loads(line)
        except ValueError:
            continue  # the ledger's own last line, cut off
        if kind == "intent":
            last = (seed, number)
        else:
            apply(model, seed, number)
            last = None
    possible = DictModel(dict(model.documents))
    if last:
        apply(possible, *last)
    return model, possible


def apply(model: DictModel, seed: int, number: int) -> None:
    change = next(c for n, c in enumerate(changes(seed)) if n == number)
    if "delete" in change:
        model.delete(change["delete"])
    else:
        model.upsert(change["upsert"])


def agrees(collection: Collection, model: DictModel) -> bool:
    """The collection holds exactly the model's documents: texts, metadata, vectors."""
    documents = {d.id: d for d in collection.page(limit=10_000)}
    if documents.keys() != model.documents.keys():
        return False
    for i, document in documents.items():
        text, metadata, given = model.documents[i]
        if (document.text, document.metadata, document.given) != (
            text,
            metadata,
            "vector" if given is not None else "text",
        ):
            return False
        if document.state == "ready":
            right = vector_of(text) if given is None else given / np.linalg.norm(given)
            if not np.allclose(collection.vector(document.label), right, atol=1e-6):
                return False
        elif given is not None:
            return False
    return True


def check_after_crash(folder: Path, ledger: Path, before: DictModel) -> DictModel:
    """Open what is left; returns what it turned out to hold."""
    catalog = Catalog(folder, Edges())
    try:
        certain, possible = acknowledged(before, ledger)
        if not certain.documents and not list(catalog):
            return certain  # killed before the collection was there, and before anything was acknowledged
        collection = catalog.get("a")
        [held] = [m for m in (certain, possible) if agrees(collection, m)][:1] or [None]
        assert held is not None, "the collection is neither as acknowledged nor with the last change whole"
        assert not catalog.unopened
        for one in catalog:
            assert verify(one) == Report((), ())
        claims = [alias for one in catalog for alias in one.aliases()]
        assert len(claims) == len(set(claims)), "a switch of an alias is half done"
        assert not list((folder / "indexes").glob("new-*"))
        for copy in [c.name for c in catalog if c.name.startswith("copy-")]:
            check_migration(catalog, copy)
        searchable = DictModel()
        for document in collection.page(limit=10_000, state="ready"):
            vector = np.array(collection.vector(document.label), np.float32)
            searchable.documents[document.id] = (document.text, document.metadata, vector)
        for query in np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32):
            check_search(collection, searchable, query / np.linalg.norm(query))
        return held
    finally:
        catalog.close()


def check_migration(catalog: Catalog, source: str) -> None:
    """Cut off anywhere, a migration goes on and ends with every document, embedded anew, under the alias."""
    moved = move(catalog, source)
    old, new = ({d.id: d for d in c.page(limit=10_000)} for c in (catalog.get(source), moved))
    assert {i: (d.text, d.metadata) for i, d in old.items()} == {i: (d.text, d.metadata) for i, d in new.items()}
    assert all(d.state == "ready" for d in new.values())
    assert catalog.get("live") is moved
    assert verify(moved) == Report((), ())
    for done in (source, moved.name):  # or every round would open those of all before it
        catalog.delete(done)


def test_nothing_acknowledged_is_lost_when_killed_at_random_moments(tmp_path: Path) -> None:
    ledger, chance, model = tmp_path / "ledger", random.Random(0), DictModel()
    doing, cut_off = tmp_path / "doing", collections.Counter[str]()
    for seed in range(ROUNDS):
        doing.write_text("start")
        run_until_killed(tmp_path / "data", ledger, seed, chance.uniform(0.0, 0.7))
        cut_off[doing.read_text().strip()] += 1
        model = check_after_crash(tmp_path / "data", ledger, model)
        ledger.unlink(missing_ok=True)
    if report := os.environ.get("GRACE_CRASH_REPORT"):
        Path(report).write_text(json.dumps({"kills": ROUNDS, "documents": len(model.documents), **cut_off}, indent=2))
    if ROUNDS >= 200:
        assert {"merge", "rebuild", "checkpoint", "snapshot", "restore", "migrate"} <= set(cut_off)


@pytest.mark.parametrize("point", list(FaultPoint), ids=lambda p: p.name)
def test_nothing_acknowledged_is_lost_when_killed_at_a_named_moment(tmp_path: Path, point: FaultPoint) -> None:
    ledger, folder = tmp_path / "ledger", tmp_path / "data"
    after = 30 if point in (FaultPoint.BEFORE_COMMIT, FaultPoint.AFTER_COMMIT) else 2
    run_until_killed(folder, ledger, 1, 30.0, die_at=point.name, after=after)
    check_after_crash(folder, ledger, DictModel())
