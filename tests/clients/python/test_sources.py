"""A source that takes its time holds back neither what is written nor what failed."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from grace_client import AsyncGraceClient, AuthenticationFailed, Document, GraceClient, Progress
from tests.clients.python.house import House

AGES_S = 10.0


def refuse(request: httpx.Request) -> httpx.Response:
    return httpx.Response(401, json={"error": {"message": "no key", "code": "invalid_api_key"}})


async def test_an_error_ends_an_upload_while_its_source_is_quiet() -> None:
    ended = asyncio.Event()

    async def source() -> AsyncIterator[Document]:
        try:
            yield Document("1", "x")
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with AsyncGraceClient("http://grace", transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(AuthenticationFailed):
            async with asyncio.timeout(AGES_S):
                await client.documents.upload("papers", source(), batch_size=1)
    assert ended.is_set()


async def test_a_source_may_wait_until_what_it_gave_is_written(house: House) -> None:
    written, tasks = asyncio.Event(), set[asyncio.Task[Any] | None]()

    async def source() -> AsyncIterator[Document]:
        for i in range(4):
            tasks.add(asyncio.current_task())
            yield Document(str(i), vector=[1, i])
            if i % 2:
                await written.wait()
                written.clear()

    async with AsyncGraceClient("http://grace", transport=house.async_transport) as client, asyncio.timeout(AGES_S):
        await client.indexes.create("papers", {"dimensions": 2})
        report = await client.documents.upload("papers", source(), batch_size=2, progress=lambda _: written.set())
    assert report.written == 4
    assert len(tasks) == 1, "a timeout or a group of tasks in a source is bound to one"


async def test_a_source_that_fails_ends_an_upload_with_its_error(house: House) -> None:
    async def source() -> AsyncIterator[Document]:
        yield Document("1", vector=[1, 2])
        raise LookupError("the source is broken")

    async with AsyncGraceClient("http://grace", transport=house.async_transport) as client:
        await client.indexes.create("papers", {"dimensions": 2})
        with pytest.raises(LookupError):
            await client.documents.upload("papers", source(), batch_size=1)


def slowly(told: list[Progress]) -> Iterator[Document]:
    """Documents, until something is told of, or for ages."""
    began = time.monotonic()
    for i in itertools.count():
        if told or time.monotonic() - began > AGES_S:
            return
        time.sleep(0.05)
        yield Document(str(i), vector=[1, i])


def test_between_two_documents_of_a_slow_source_it_is_told_what_is_written(house: House) -> None:
    told: list[Progress] = []
    began = time.monotonic()
    with GraceClient("http://grace", transport=house.transport) as client:
        client.indexes.create("papers", {"dimensions": 2})
        client.documents.upload("papers", slowly(told), batch_size=1, at_once=1000, progress=told.append)
    assert time.monotonic() - began < AGES_S


def test_between_two_documents_of_a_slow_source_an_error_ends_an_upload() -> None:
    began = time.monotonic()
    transport = httpx.MockTransport(refuse)
    with GraceClient("http://grace", transport=transport) as client, pytest.raises(AuthenticationFailed):
        client.documents.upload("papers", slowly([]), batch_size=1, at_once=1000)
    assert time.monotonic() - began < AGES_S
