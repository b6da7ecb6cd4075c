"""Embedding and maintenance go on after errors of the store, or end with a word."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from grace.errors import EngineDead
from grace_server.index import indexes, outcome
from grace_server.index.backlog import embed_pending
from grace_server.index.description import describe
from grace_server.index.matrix import Matrix
from grace_server.index.model import Represent
from tests.index.conftest import OpenService
from tests.index.filled import SETTINGS, TWO, refusing
from tests.index.invariants import check


def once(work: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """What fails the first time."""
    errors = iter([error])

    def fails(*args: Any, **kwargs: Any) -> Any:
        for each in errors:
            raise each
        return work(*args, **kwargs)

    return fails


@pytest.mark.parametrize("step", ["pending", "embedded", "failed"])
async def test_embedding_goes_on_after_errors_of_sqlite_that_have_no_name_of_ours(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    async with open_service(wrap=refusing("mill")) as service, asyncio.timeout(10):
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


async def test_a_service_waits_for_an_engine_that_is_started_again(
    open_service: OpenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outcome, "RETRY_S", 0.01)

    def dead_at_first(represent: Represent) -> Represent:
        return once(represent, EngineDead("vLLM's engine process is gone"))

    async with open_service(wrap=dead_at_first) as service, asyncio.timeout(10):
        await service.http.put("/indexes/a")
        job = (await service.http.post("/indexes/a/documents", json=TWO)).json()["job"]
        assert (job["state"], job["done"], job["failed"]) == ("done", 2, 0)


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
