"""Failing writes, full disks, damaged and foreign files: the right answer or a refusal, never a wrong answer."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grace_server.index import reading
from grace_server.index.catalog import Catalog
from grace_server.index.collection import DATABASE
from grace_server.index.description import describe
from grace_server.index.edges import Edges
from grace_server.index.errors import Conflict, StoreDamaged, StoreFull, StoreLocked, StoreUnavailable
from grace_server.index.faiss_index import FaissIndex
from grace_server.index.faults import FaultPoint
from grace_server.index.gauges import show
from grace_server.index.snapshot import restore_snapshot, take_snapshot
from grace_server.index.vectors import Labels
from grace_server.index.verify import Report, verify
from grace_server.metrics import Metrics
from tests.index.filled import QUERY, ROWS, batch, filled, reopened
from tests.index.invariants import check, check_search


@dataclass
class Failing:
    """Raises at the n-th visit of a fault point, once."""

    point: FaultPoint
    countdown: int = 1
    error: type[BaseException] = OSError
    visited: set[FaultPoint] = field(default_factory=set)

    def __call__(self, point: FaultPoint) -> None:
        self.visited.add(point)
        if point is self.point:
            self.countdown -= 1
            if self.countdown == 0:
                raise self.error(errno.ENOSPC, "no space left on device")


CHECKPOINTING = [p for p in FaultPoint if p.name.startswith(("CHECKPOINT", "MANIFEST"))]


@pytest.mark.parametrize("point", CHECKPOINTING, ids=lambda p: p.name)
def test_a_checkpoint_that_cannot_be_written_harms_nothing(tmp_path: Path, point: FaultPoint) -> None:
    failing = Failing(point)
    catalog, collection, model = filled(tmp_path, Edges(faults=failing))
    with pytest.raises(OSError, match="no space"):
        collection.maintain()
    assert point in failing.visited
    check_search(collection, model, QUERY)
    assert not list(tmp_path.rglob("*.tmp"))
    collection.maintain("rebuild")
    check(collection, model, queries=QUERY[None])
    catalog.close()
    catalog, collection = reopened(tmp_path)
    check(collection, model, queries=QUERY[None])
    catalog.close()


def test_a_write_that_fails_before_its_commit_leaves_nothing(tmp_path: Path) -> None:
    failing = Failing(FaultPoint.BEFORE_COMMIT, countdown=4)
    catalog, collection, model = filled(tmp_path, Edges(faults=failing))
    failing.countdown = 1
    with pytest.raises(OSError, match="no space"):
        collection.upsert(batch(ROWS, 5))
    check(collection, model, queries=QUERY[None])
    catalog.close()


def test_a_write_that_fails_after_its_commit_is_there_after_all(tmp_path: Path) -> None:
    failing = Failing(FaultPoint.AFTER_COMMIT, countdown=10)
    catalog, collection, model = filled(tmp_path, Edges(faults=failing))
    failing.countdown = 1
    more = batch(ROWS, 5, seed=1)
    with pytest.raises(OSError, match="no space"):
        collection.upsert(more)
    model.upsert(more)
    check_search(collection, model, QUERY)
    check(collection, model, queries=QUERY[None])
    catalog.close()


def test_a_full_disk_refuses_the_batch_whole_and_searches_go_on(tmp_path: Path) -> None:
    catalog, collection, model = filled(tmp_path, Edges(max_pages=40), rows=20)
    documents = [{**d, "text": "x" * 20_000} for d in batch(100, 50)]
    with pytest.raises(StoreFull):
        collection.upsert(documents)
    check(collection, model, queries=QUERY[None])
    assert collection.delete(["d0"]) == 1
    catalog.close()


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zero_tailed(data: bytes) -> bytes:
    return data[: -len(data) // 4] + bytes(len(data) // 4)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def emptied(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [truncated, zero_tailed, flipped, emptied])
@pytest.mark.parametrize("file", ["*.faiss", "*.json"])
def test_a_damaged_checkpoint_is_doubted_and_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], file: str
) -> None:
    catalog, collection, model = filled(tmp_path)
    collection.maintain()
    catalog.close()
    [path] = tmp_path.rglob(file)
    path.write_bytes(damage(path.read_bytes()))

    catalog, collection = reopened(tmp_path)
    assert describe(collection).index_kind == "flat", "the damaged base was believed"
    assert collection.doubts
    check_search(collection, model, QUERY)
    assert verify(collection).derived
    assert verify(collection, repair=True).repaired
    assert verify(collection) == Report((), ())
    check_search(collection, model, QUERY)
    catalog.close()


def test_the_previous_checkpoint_serves_where_the_newest_is_damaged(tmp_path: Path) -> None:
    catalog, collection, model = filled(tmp_path)
    collection.maintain()
    more = batch(ROWS, 30, seed=1)
    collection.upsert(more)
    model.upsert(more)
    collection.maintain("merge")
    catalog.close()
    newest = max(tmp_path.rglob("*.faiss"))
    newest.write_bytes(flipped(newest.read_bytes()))

    catalog, collection = reopened(tmp_path)
    assert describe(collection).index_kind == "hnsw"
    assert len(collection.doubts) == 1
    check_search(collection, model, QUERY)
    catalog.close()


def test_a_checkpoint_of_another_collection_is_not_believed(tmp_path: Path) -> None:
    catalog, collection, model = filled(tmp_path / "one")
    collection.maintain()
    folder = collection.folder
    catalog.close()
    other, twin, _ = filled(tmp_path / "two")
    twin.delete(["d1"])
    twin.upsert(batch(1, 1, seed=9))
    twin.maintain()
    for file in twin.folder.rglob("base-*"):
        (folder / "checkpoints" / file.name).write_bytes(file.read_bytes())
    other.close()

    catalog, collection = reopened(tmp_path / "one")
    assert "another collection" in collection.doubts[0]
    check_search(collection, model, QUERY)
    catalog.close()


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_checkpoint_newer_than_the_database_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Whether what the database lost was committed before the build of the checkpoint or during it."""
    catalog, collection, model = filled(tmp_path)
    catalog.close()
    old = {f.name: f.read_bytes() for f in collection.folder.glob("documents.sqlite*")}
    catalog, collection = reopened(tmp_path)
    maintain = FaissIndex.maintain

    def beside_a_write(index: FaissIndex, *args: Any, **options: Any) -> None:
        collection.upsert(batch(ROWS, 30, seed=1))
        maintain(index, *args, **options)

    if when == "before":
        collection.upsert(batch(ROWS, 30, seed=1))
    else:
        monkeypatch.setattr(FaissIndex, "maintain", beside_a_write)
    collection.maintain()
    monkeypatch.undo()
    catalog.close()
    for file in collection.folder.glob("documents.sqlite*"):
        file.unlink()
    for name, data in old.items():
        (collection.folder / name).write_bytes(data)

    catalog, collection = reopened(tmp_path)
    assert "newer than the database" in collection.doubts[0]
    check_search(collection, model, QUERY)
    # The database comes as far again, with other documents under the labels that the checkpoint has vectors for.
    others = batch(ROWS + 100, 30, seed=2)
    for turn in range(3):
        documents = [{**document, "metadata": {"turn": turn}} for document in others]
        collection.upsert(documents)
        model.upsert(documents)
    catalog.close()
    catalog, collection = reopened(tmp_path)
    check(collection)
    query = np.array(others[7]["vector"], dtype=np.float32)
    check_search(collection, model, query / np.linalg.norm(query))
    catalog.close()


def test_a_checkpoint_of_other_vectors_than_the_stored_ones_is_made_again(tmp_path: Path) -> None:
    catalog, collection, _ = filled(tmp_path)
    collection.maintain()
    other = "UPDATE vector SET vector = (SELECT vector FROM vector WHERE label = 2) WHERE label = 1"
    collection.store.write(lambda c: c.execute(other) and None)
    catalog.close()
    for repair in (True, False):
        catalog, collection = reopened(tmp_path)
        assert describe(collection).index_kind == "hnsw"
        found = verify(collection, repair=repair)
        assert found.derived == (("1 vectors differ from the stored ones, such as label 1",) if repair else ())
        assert verify(collection) == Report((), ())
        catalog.close()


def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    catalog, collection, _ = filled(tmp_path)
    collection.maintain()
    catalog.close()
    [path] = tmp_path.rglob("base-*.json")
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "file": "../../../etc/passwd"}))
    catalog, collection = reopened(tmp_path)
    assert "another file" in collection.doubts[0]
    catalog.close()


@pytest.mark.parametrize("damage", [truncated, zero_tailed, emptied])
def test_a_damaged_database_is_refused_or_reported_never_answered_from(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    catalog, collection, _ = filled(tmp_path, rows=400)
    catalog.close()
    database = collection.folder / DATABASE
    database.write_bytes(damage(database.read_bytes()))
    for journal in collection.folder.glob("documents.sqlite-*"):
        journal.unlink()
    catalog = Catalog(tmp_path, Edges())
    try:
        assert verify(catalog.get("a")).truth
    except StoreDamaged:
        pass
    finally:
        catalog.close()


def test_a_second_process_is_refused_with_the_reason(tmp_path: Path) -> None:
    catalog, _, _ = filled(tmp_path)
    with pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        Catalog(tmp_path, Edges())
    command = [sys.executable, "-m", "grace_server.index.cli", "--data-dir", str(tmp_path), "list"]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert f"in use by process {os.getpid()}" in second.stderr
    catalog.close()
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def test_a_snapshot_is_restored_whole_under_another_name(tmp_path: Path) -> None:
    catalog, collection, model = filled(tmp_path)
    collection.upsert([{"id": "waits", "text": "not embedded yet"}])
    model.upsert([{"id": "waits", "text": "not embedded yet"}])
    path = tmp_path / "a.snapshot"
    take_snapshot(collection, path, catalog.edges)
    collection.delete(["d1"])
    restored = restore_snapshot(catalog, path, "b")
    check(restored, model, queries=QUERY[None])
    assert restored.id != collection.id
    with pytest.raises(Conflict):
        restore_snapshot(catalog, path, "b")
    with pytest.raises(Conflict):
        take_snapshot(collection, path, catalog.edges)
    catalog.close()


def test_a_restored_index_has_jobs_of_its_own(tmp_path: Path) -> None:
    catalog, collection, _ = filled(tmp_path)
    job, _ = collection.upsert([{"id": "waits", "text": "not yet"}, {"id": "fails", "text": "never"}])
    collection.failed(collection.pending(limit=2)[1].label, "no room")
    finished, _ = collection.upsert(batch(ROWS, 1))
    path = tmp_path / "a.snapshot"
    take_snapshot(collection, path, catalog.edges)
    copy = restore_snapshot(catalog, path, "0-looked-at-first")
    assert copy.job(job) is copy.job(finished) is None

    check(copy)
    failed = copy.get("fails")
    assert failed is not None
    assert failed.reason == "no room"
    [own] = copy.store.read(lambda c: c.execute("SELECT id FROM job").fetchall())
    left = copy.job(*own)
    assert left is not None
    assert (left.left, left.failed, left.failures[0].id) == (1, 1, "fails")
    copy.cancel(*own)
    assert (copy.store.read(reading.counts).pending, collection.store.read(reading.counts).pending) == (0, 1)
    catalog.close()


@pytest.mark.parametrize("damage", [truncated, zero_tailed, flipped, emptied])
def test_a_damaged_snapshot_is_refused_and_leaves_nothing(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    catalog, collection, _ = filled(tmp_path)
    path = tmp_path / "a.snapshot"
    take_snapshot(collection, path, catalog.edges)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StoreDamaged):
        restore_snapshot(catalog, path, "b")
    assert [c.name for c in catalog] == ["a"]
    assert not list((tmp_path / "indexes").glob("new-*"))
    catalog.close()


def test_an_edited_or_newer_schema_is_refused(tmp_path: Path) -> None:
    catalog, collection, _ = filled(tmp_path)
    catalog.close()
    for sql in ("UPDATE migration SET sha256 = 'edited'", "INSERT INTO migration VALUES (999, 'later', '', 0)"):
        with sqlite3.connect(collection.folder / DATABASE) as connection:
            connection.execute(sql)
        catalog = Catalog(tmp_path, Edges())
        with pytest.raises(StoreDamaged, match=r"migration|schema"):
            catalog.get("a")
        catalog.close()


class Away:
    """A vector index on a machine that is no longer there."""

    def __init__(self, collection: str, dimensions: int) -> None:
        self.held = np.empty(0, np.int64)

    def add(self, labels: Labels, vectors: object) -> None:
        self.held = np.union1d(self.held, labels)

    def remove(self, labels: Labels) -> None:
        self.held = np.setdiff1d(self.held, labels)

    def labels(self) -> Labels:
        return self.held

    def __len__(self) -> int:
        raise StoreUnavailable("Qdrant did not do as asked")

    def close(self) -> None: ...


def test_the_metrics_ask_no_other_machine(tmp_path: Path) -> None:
    catalog, _, _ = filled(tmp_path, Edges(vector_index=Away), rows=7)
    metrics = Metrics()
    show(catalog, metrics)
    assert metrics.registry.get_sample_value("grace_index_rows", {"index": "a"}) == 7
    catalog.close()
