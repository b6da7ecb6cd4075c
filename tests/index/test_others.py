"""What one does to an index harms nobody else: deleting, leaving, drawing, filtering while others search and write."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from grace.representation import Job, Representation
from grace_server.errors import GenerationTimeout
from grace_server.index import outcome
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.description import describe
from grace_server.index.edges import Edges
from grace_server.index.errors import IndexNotFound, StoreUnavailable
from grace_server.index.faults import FaultPoint
from grace_server.index.filters import compile_filter
from grace_server.index.mapping import Maps
from grace_server.index.model import Represent
from grace_server.index.routes import collections
from grace_server.index.settings import CollectionSettings
from grace_server.index.vector_index import VectorIndex
from tests.index.conftest import OpenService
from tests.server.conftest import until

QUERY = np.array([[1, 0, 0, 0]], dtype=np.float32)


class Moment:
    """Something to do the next time a write passes a point."""

    def __init__(self, point: FaultPoint) -> None:
        self.point = point
        self.act: Callable[[], None] | None = None

    def __call__(self, point: FaultPoint) -> None:
        if point is self.point and self.act is not None:
            act, self.act = self.act, None
            act()


@contextmanager
def two_indexes(folder: Path, moment: Moment) -> Iterator[tuple[Catalog, Collection]]:
    catalog = Catalog(folder, Edges(faults=moment))
    for name in ("a", "b"):
        catalog.create(name, CollectionSettings(), dimensions=4, fingerprint=None)
    try:
        yield catalog, catalog.get("a")
    finally:
        catalog.close()


def found(collection: Collection, filter_: dict[str, Any]) -> set[str]:
    [neighbours] = collection.dense(QUERY, 10, compile_filter(filter_))
    return {document.id for document in collection.documents(neighbours.labels).values()}


def test_a_search_in_the_moment_of_a_write_does_not_hide_the_document_from_later_ones(tmp_path: Path) -> None:
    moment = Moment(FaultPoint.AFTER_COMMIT)
    not_german = {"field": "lang", "operator": "!=", "value": "de"}
    with two_indexes(tmp_path, moment) as (_, collection):
        collection.upsert([{"id": "1", "vector": [1, 0, 0, 0], "metadata": {"lang": "en"}}])
        moment.act = lambda: found(collection, not_german) and None
        collection.upsert([{"id": "2", "vector": [1, 0.1, 0, 0], "metadata": {"lang": "fr"}}])
        assert moment.act is None
        assert found(collection, not_german) == {"1", "2"}


def test_an_index_that_missed_a_write_is_read_anew_once_for_all_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment, searches, begun = Moment(FaultPoint.AFTER_COMMIT), 4, threading.Barrier(5)
    reads: list[Collection] = []
    loaded, exclusively = Collection._loaded, Collection._exclusively

    def counted(collection: Collection) -> VectorIndex:
        reads.append(collection)
        return loaded(collection)

    def together(collection: Collection, act: Callable[[], None]) -> None:
        begun.wait(10)  # all have seen that it is stale
        exclusively(collection, act)

    def fail() -> None:
        raise OSError("no memory, say")

    with two_indexes(tmp_path, moment) as (_, collection):
        moment.act = fail
        with pytest.raises(OSError, match="no memory"):
            collection.upsert([{"id": "1", "vector": [1, 0, 0, 0]}])
        monkeypatch.setattr(Collection, "_loaded", counted)
        monkeypatch.setattr(Collection, "_exclusively", together)
        with ThreadPoolExecutor(searches) as threads:
            asked = [threads.submit(collection.dense, QUERY, 1) for _ in range(searches)]
            begun.wait(10)
            assert [one.result()[0].labels.tolist() for one in asked] == [[1]] * searches
    assert reads == [collection]


def test_a_filter_may_list_thousands_of_long_texts(tmp_path: Path) -> None:
    urls = ["https://example.org/" + "x" * 200 + str(i) for i in range(5_000)]
    with two_indexes(tmp_path, Moment(FaultPoint.AFTER_COMMIT)) as (_, collection):
        collection.upsert(
            [{"id": str(i), "vector": [1, i, 0, 0], "metadata": {"url": urls[0][:-1] + str(i)}} for i in range(3)]
        )
        assert found(collection, {"field": "url", "operator": "in", "value": [*urls[1:], None]}) == {"1", "2"}
        assert found(collection, {"field": "url", "operator": "not in", "value": urls[1:]}) == {"0"}


def test_others_are_found_while_an_index_is_being_deleted(tmp_path: Path) -> None:
    moment, begun, end = Moment(FaultPoint.AFTER_COMMIT), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait(10)

    with two_indexes(tmp_path, moment) as (catalog, collection):
        moment.act = wait
        writing = threading.Thread(target=lambda: collection.upsert([{"id": "1", "vector": [1, 0, 0, 0]}]))
        writing.start()
        assert begun.wait(10)
        deleting = threading.Thread(target=lambda: catalog.delete("a"))
        deleting.start()
        while collection in list(catalog):
            time.sleep(0.001)
        assert catalog.get("b").name == "b"
        with pytest.raises(IndexNotFound):
            catalog.get("a")
        end.set()
        writing.join()
        deleting.join()


def test_an_index_that_cannot_be_deleted_is_there_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with two_indexes(tmp_path, Moment(FaultPoint.AFTER_COMMIT)) as (catalog, collection):
        collection.upsert([{"id": "1", "vector": [1, 0, 0, 0]}])

        def refuse(*_: object) -> None:
            raise OSError(30, "Read-only file system")

        with monkeypatch.context() as broken:
            broken.setattr(Path, "rename", refuse)
            with pytest.raises((OSError, StoreUnavailable)):
                catalog.delete("a")
        assert catalog.get("b").name == "b"
        assert catalog.get("a").get("1") is not None


async def test_a_job_is_found_though_another_index_goes_meanwhile(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_service() as service:
        for name in ("a", "b"):
            await service.http.put(f"/indexes/{name}")
        vector = [1.0] + [0.0] * (service.indexes.catalog.get("b").dimensions - 1)
        written = await service.http.post("/indexes/b/documents", json={"documents": [{"id": "1", "vector": vector}]})
        job, other = written.json()["job"]["id"], service.indexes.catalog.get("a")
        look = Collection.job

        def gone(collection: Collection, wanted: str) -> Any:
            if collection is other:  # begun upon before it was deleted
                if service.indexes.catalog.has(other):
                    service.indexes.catalog.delete("a")
                raise StoreUnavailable("Cannot operate on a closed database.")
            return look(collection, wanted)

        monkeypatch.setattr(Collection, "job", gone)
        assert (await service.http.get(f"/jobs/{job}")).json()["state"] == "done"
        assert not service.indexes.catalog.has(other)


async def test_what_a_caller_wrote_who_left_is_embedded_all_the_same(open_service: OpenService) -> None:
    moment, begun, end = Moment(FaultPoint.BEFORE_COMMIT), threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        end.wait(10)

    async with open_service(edges=Edges(faults=moment)) as service:
        await service.http.put("/indexes/a")
        moment.act = wait
        leaving = asyncio.create_task(service.indexes.write("a", [{"id": "1", "text": "hello"}], wait=False))
        await until(begun.is_set)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        end.set()
        await until(lambda: service.engine.calls == 1)


async def test_a_text_that_always_takes_too_long_fails_after_some_attempts(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "RETRY_S", 0.01)
    attempts = 0

    def too_slow(_: Represent) -> Represent:
        async def represent(job: Job) -> Representation:
            nonlocal attempts
            attempts += 1
            raise GenerationTimeout("the engine took more than 600 s (generate_timeout_s)")

        return represent

    async with open_service(wrap=too_slow) as service:
        await service.http.put("/indexes/a")
        answer = await service.http.post(
            "/indexes/a/documents", json={"wait": True, "documents": [{"id": "1", "text": "hello"}]}
        )
        assert answer.json()["job"]["failed"] == 1
        assert attempts == outcome.ATTEMPTS


def test_a_map_being_drawn_keeps_nobody_waiting_who_asks_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_indexes(tmp_path, Moment(FaultPoint.AFTER_COMMIT)) as (catalog, collection):
        other, maps = catalog.get("b"), Maps()
        for one in (collection, other):
            one.upsert([{"id": str(i), "vector": [1, i, 0, 0]} for i in range(3)])
        kept = maps.current(other)
        drawing, end = threading.Event(), threading.Event()
        draw = Maps.current.__globals__["_draw"]

        def slowly(*args: Any, **options: Any) -> Any:
            drawing.set()
            assert end.wait(10)
            return draw(*args, **options)

        monkeypatch.setitem(Maps.current.__globals__, "_draw", slowly)
        busy = threading.Thread(target=lambda: maps.current(collection))
        busy.start()
        assert drawing.wait(10)
        assert maps.of(other, kept.seq) is kept  # while the first is still being drawn
        end.set()
        busy.join()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": ["a"] * 64, "k": 1000}, "k"),
        ({"query": ["a"] * 2, "k": 501, "explain": True}, "k"),
        ({"query": "a" * 1001}, "query"),
    ],
)
async def test_what_would_be_too_much_for_one_request_is_refused(
    open_service: OpenService, body: dict[str, Any], param: str
) -> None:
    async with open_service(max_input_chars=1000) as service:
        await service.http.put("/indexes/a")
        answer: httpx.Response = await service.http.post("/search", json={"index": "a", **body})
        assert answer.status_code in (413, 422)
        assert answer.json()["error"]["param"] == param
        assert not service.engine.calls


async def test_searches_and_reads_do_not_wait_behind_writes_that_wait_for_the_writer(open_service: OpenService) -> None:
    free = threading.Event()
    async with open_service() as service, asyncio.timeout(30):
        for name in ("a", "b"):
            await service.http.put(f"/indexes/{name}")
            await service.indexes.write(name, [{"id": "1", "text": "river"}], wait=True)
        collection = service.indexes.catalog.get("a")
        held = asyncio.create_task(
            service.indexes.on_write_thread(collection, lambda: collection.store.write(_held(free)))
        )
        waiting = [
            asyncio.create_task(service.indexes.write("a", [{"id": str(i), "text": "mill"}], wait=False))
            for i in range(40)
        ]
        try:
            async with asyncio.timeout(5):
                for name in ("a", "b"):
                    answer = await service.http.post("/search", json={"index": name, "query": "river"})
                    assert answer.json()["hits"][0]["id"] == "1"
                    assert (await service.http.get(f"/indexes/{name}/documents/1")).status_code == 200
                await service.indexes.write("b", [{"id": "2", "text": "mill"}], wait=True)
            assert not any(task.done() for task in waiting)
        finally:
            free.set()
        await asyncio.gather(held, *waiting)


def _held(free: threading.Event) -> Callable[[object], None]:
    def hold(_: object) -> None:
        free.wait(20)

    return hold


async def test_the_queries_of_a_request_are_embedded_together(open_service: OpenService) -> None:
    async with open_service(seconds_per_text=0.2) as service:
        await service.http.put("/indexes/a")
        began = time.perf_counter()
        answer = await service.http.post("/search", json={"index": "a", "query": [f"text {i}" for i in range(20)]})
        assert len(answer.json()["results"]) == 20
        assert time.perf_counter() - began < 2  # one after the other: 4 s


async def test_who_creates_one_index_at_the_same_time_is_told_of_one(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, create = threading.Barrier(3), Catalog.create

    def at_once(*args: Any, **options: Any) -> Collection:  # all have seen by now that there is none
        together.wait(10)
        return create(*args, **options)

    monkeypatch.setattr(Catalog, "create", at_once)
    async with open_service() as service:
        answers = await asyncio.gather(*(service.http.put("/indexes/a") for _ in range(3)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 201]
        monkeypatch.undo()
        await service.http.put("/aliases/live", json={"index": "a"})
        assert (await service.http.put("/indexes/live")).status_code == 409


@pytest.mark.parametrize(("path", "status"), [("/indexes", 200), ("/indexes/a", 404)])
async def test_an_index_that_goes_while_it_is_described_is_passed_over(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch, path: str, status: int
) -> None:
    async with open_service() as service:
        for name in ("a", "b"):
            await service.http.put(f"/indexes/{name}")
        other = service.indexes.catalog.get("a")

        def gone(collection: Collection) -> Any:
            if collection is other:
                service.indexes.catalog.delete("a")
            return describe(collection)

        monkeypatch.setattr(collections, "describe", gone)
        answer = await service.http.get(path)
        assert answer.status_code == status
        assert [one["name"] for one in answer.json().get("data", [])] == (["b"] if status == 200 else [])


async def test_where_the_data_lies_is_told_to_nobody(open_service: OpenService, tmp_path: Path) -> None:
    async with open_service() as service:
        await service.http.put("/indexes/a")
        collection = service.indexes.catalog.get("a")
        collection.doubts.append(f"maintenance: {OSError(28, 'full', str(collection.folder / 'checkpoints/base-1'))}")
        described = await service.http.get("/indexes/a")
        assert described.json()["doubts"] == ["maintenance: [Errno 28] full: 'checkpoints/base-1'"]
        collection.store.close()
        for verb, path in (("GET", "/indexes/a"), ("DELETE", "/indexes/a/documents/1")):
            refused = await service.http.request(verb, path)
            assert refused.status_code == 503
            assert str(tmp_path) not in refused.text


@pytest.mark.parametrize("deleted", [True, False])
async def test_a_write_that_ends_while_its_index_is_deleted_leaves_no_embedder_of_a_closed_store(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    async with open_service() as service, asyncio.timeout(30):
        await service.http.put("/indexes/a")
        collection, delete = service.indexes.catalog.get("a"), service.indexes.catalog.delete
        loop, document = asyncio.get_running_loop(), {"id": "1", "text": "hello"}

        def refuse(*_: object) -> None:
            raise OSError(30, "Read-only file system")

        def after_a_write(name: str) -> Collection:
            writing = service.indexes.write(name, [document], wait=False)
            asyncio.run_coroutine_threadsafe(writing, loop).result(10)
            if not deleted:
                monkeypatch.setattr(Path, "rename", refuse)
            return delete(name)

        monkeypatch.setattr(service.indexes.catalog, "delete", after_a_write)
        answer = await service.http.delete("/indexes/a")
        monkeypatch.undo()
        if deleted:
            assert answer.status_code == 200
            assert collection.id not in service.indexes._embedders
        else:  # it is there as before, and what was written is embedded
            assert answer.status_code == 503
            await until(lambda: service.engine.calls == 1)
            again = await service.indexes.write("a", [document], wait=True)
            assert again[0].done == 1


def test_a_write_that_meets_the_end_of_the_store_is_done_or_refused(tmp_path: Path) -> None:
    with two_indexes(tmp_path, Moment(FaultPoint.AFTER_COMMIT)) as (_, collection):
        closing, tasks = threading.Thread(target=collection.store.close), collection.store._tasks

        class Late:
            """A queue to which a task comes as late as it can: the store is being closed."""

            def put(self, task: Any) -> None:
                if task is not None:
                    closing.start()
                    closing.join(0.2)
                tasks.put(task)

            def get(self) -> Any:
                return tasks.get()

        collection.store._tasks = Late()  # type: ignore[assignment]
        ended = threading.Event()

        def write() -> None:
            collection.store.write(lambda _: None)
            ended.set()

        threading.Thread(target=write, daemon=True).start()
        assert ended.wait(10)
        closing.join(10)
        with pytest.raises(StoreUnavailable):
            collection.store.write(lambda _: None)
