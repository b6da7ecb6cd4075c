"""Failing writes, full disks, damaged and foreign files: the right answer or a refusal, never a wrong answer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grace.errors import InvalidInput
from grace.representation import Job, Representation
from grace_server.index import indexes, reading
from grace_server.index.backlog import embed_pending
from grace_server.index.catalog import TRASH, Catalog
from grace_server.index.collection import DATABASE, Collection
from grace_server.index.description import describe
from grace_server.index.edges import Edges
from grace_server.index.errors import Conflict, StoreDamaged, StoreFull, StoreLocked, StoreUnavailable
from grace_server.index.faults import FaultPoint
from grace_server.index.gauges import show
from grace_server.index.matrix import Matrix
from grace_server.index.model import Represent
from grace_server.index.settings import CollectionSettings
from grace_server.index.snapshot import restore_snapshot, take_snapshot
from grace_server.index.vectors import Labels
from grace_server.index.verify import Report, verify
from grace_server.metrics import Metrics
from tests.index.conftest import OpenService
from tests.index.invariants import check, check_search
from tests.index.model import DictModel

H, ROWS = 8, 120
SETTINGS = CollectionSettings(kind="hnsw", flat_limit=50, links=8, build_width=40)
QUERY = np.eye(H, dtype=np.float32)[0]


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


def batch(start: int, rows: int, seed: int = 0) -> list[dict[str, Any]]:
    vectors = np.random.default_rng(seed).standard_normal((rows, H))
    return [{"id": f"d{start + i}", "text": "river", "vector": v.tolist()} for i, v in enumerate(vectors)]


def filled(folder: Path, edges: Edges | None = None, rows: int = ROWS) -> tuple[Catalog, Collection, DictModel]:
    catalog = Catalog(folder, edges or Edges())
    collection = catalog.create("a", SETTINGS, dimensions=H, fingerprint=None)
    model = DictModel()
    documents = batch(0, rows)
    collection.upsert(documents)
    model.upsert(documents)
    return catalog, collection, model


def reopened(folder: Path) -> tuple[Catalog, Collection]:
    catalog = Catalog(folder, Edges())
    return catalog, catalog.get("a")


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


def test_a_checkpoint_newer_than_the_database_is_not_believed(tmp_path: Path) -> None:
    catalog, collection, model = filled(tmp_path)
    catalog.close()
    old = {f.name: f.read_bytes() for f in collection.folder.glob("documents.sqlite*")}
    catalog, collection = reopened(tmp_path)
    collection.upsert(batch(ROWS, 30, seed=1))
    collection.maintain()
    catalog.close()
    for file in collection.folder.glob("documents.sqlite*"):
        file.unlink()
    for name, data in old.items():
        (collection.folder / name).write_bytes(data)

    catalog, collection = reopened(tmp_path)
    assert "newer than the database" in collection.doubts[0]
    check_search(collection, model, QUERY)
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


def once(work: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """What fails the first time."""
    errors = iter([error])

    def fails(*args: Any, **kwargs: Any) -> Any:
        for each in errors:
            raise each
        return work(*args, **kwargs)

    return fails


def no_mills(represent: Represent) -> Represent:
    async def refuse(job: Job) -> Representation:
        if "mill" in job.text:
            raise InvalidInput("no mills here", param="input")
        return await represent(job)

    return refuse


TWO: dict[str, Any] = {
    "documents": [{"id": "1", "text": "The river rises."}, {"id": "2", "text": "The mill stands."}],
    "wait": True,
}


@pytest.mark.parametrize("step", ["pending", "embedded", "failed"])
async def test_embedding_goes_on_after_errors_of_sqlite_that_have_no_name_of_ours(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    async with open_service(wrap=no_mills) as service, asyncio.timeout(10):
        await service.http.put("/indexes/a")
        collection = service.indexes.catalog.get("a")
        error = sqlite3.OperationalError("interrupted")
        monkeypatch.setattr(collection, step, once(getattr(collection, step), error))
        job = (await service.http.post("/indexes/a/documents", json=TWO)).json()["job"]
        assert (job["state"], job["done"], job["failed"]) == ("done", 1, 1)
        assert "embedding for index a waits for its store: OperationalError: interrupted" in caplog.text
        check(collection)


async def test_embedding_goes_on_where_memory_was_short_for_a_moment(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_service() as service, asyncio.timeout(10):
        await service.http.put("/indexes/a")
        monkeypatch.setattr(Matrix, "_grown", once(Matrix._grown, MemoryError()))
        for document in TWO["documents"]:
            body = {"documents": [document], "wait": True}
            job = (await service.http.post("/indexes/a/documents", json=body)).json()["job"]
            assert (job["state"], job["done"]) == ("done", 1)
        found = (await service.http.post("/search", json={"index": "a", "query": "The river rises."})).json()
        assert {hit["id"] for hit in found["hits"]} == {"1", "2"}
        check(service.indexes.catalog.get("a"))


async def test_a_command_ends_at_an_error_that_waiting_does_not_mend(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_service() as service, asyncio.timeout(10):
        model = service.indexes.model
        width = model.checkpoint.hidden_size
        collection = service.indexes.catalog.create("b", SETTINGS, dimensions=width, fingerprint=model.fingerprint)
        collection.upsert(TWO["documents"])
        monkeypatch.setattr(collection, "pending", once(collection.pending, sqlite3.IntegrityError("no such row")))
        with pytest.raises(sqlite3.IntegrityError, match="no such row"):
            await embed_pending(collection, model)
        await embed_pending(collection, model)
        assert describe(collection).counts.ready == len(TWO["documents"])


async def test_an_index_goes_though_whoever_deletes_it_leaves_at_once(open_service: OpenService) -> None:
    async with open_service() as service, asyncio.timeout(10):
        await service.http.put("/indexes/a")
        leaving = asyncio.create_task(service.indexes.delete("a"))
        await asyncio.sleep(0)
        leaving.cancel()
        while (await service.http.get("/indexes/a")).status_code != 404:  # noqa: ASYNC110 - it goes in its own time
            await asyncio.sleep(0.01)
        assert not service.indexes._embedders


async def test_an_embedder_that_has_ended_is_replaced(open_service: OpenService) -> None:
    async with open_service() as service, asyncio.timeout(10):
        await service.http.put("/indexes/a")
        [(_, task)] = service.indexes._embedders.values()
        task.cancel()
        await asyncio.wait([task])
        job = (await service.http.post("/indexes/a/documents", json=TWO)).json()["job"]
        assert (job["state"], job["done"]) == ("done", 2)


async def test_maintenance_that_keeps_failing_is_tried_ever_more_rarely_and_doubted_once(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[float] = []
    enough = asyncio.Event()

    def fails() -> None:
        tried.append(time.monotonic())
        if len(tried) == 6:
            loop.call_soon_threadsafe(enough.set)
        raise RuntimeError("input contains NaN's or Inf's")

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(indexes, "MAINTENANCE_S", 0.01)
    async with open_service() as service, asyncio.timeout(30):
        await service.http.put("/indexes/a")
        collection = service.indexes.catalog.get("a")
        collection.doubts.append("base-1.json: it is damaged")
        monkeypatch.setattr(collection, "due", lambda: "build")
        monkeypatch.setattr(collection, "maintain", fails)
        await enough.wait()
        doubts = (await service.http.get("/indexes/a")).json()["doubts"]
        assert doubts == ["base-1.json: it is damaged", "maintenance: input contains NaN's or Inf's"]
    assert all(gap >= 0.02 * 2**i for i, gap in enumerate(np.diff(tried[:6])))
