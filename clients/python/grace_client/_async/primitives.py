"""Waiting and doing several things at once: all that differs between the twins in more than words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from grace_client import wire

T = TypeVar("T")
R = TypeVar("R")

sleep = asyncio.sleep


def still_wanted() -> None:
    """For work whose results nobody waits for any more, to end itself. A task here is cancelled instead."""


async def results_of(
    work: Callable[[T], Awaitable[R]], items: AsyncIterable[T] | Iterable[T], *, at_once: int
) -> AsyncGenerator[R, None]:
    """Results in the order in which they are ready. Never more than `at_once` under way; items are taken when needed.

    The first error ends it: what is under way is cancelled, the wait for an item, too.

    Raises:
        ValueError: `at_once` is no whole number of at least 1.
    """
    wire.positive(at_once=at_once)
    places = asyncio.Semaphore(at_once)
    under_way: set[asyncio.Future[Any]] = set()
    ended: asyncio.Queue[asyncio.Future[Any]] = asyncio.Queue()

    def start(doing: Awaitable[Any]) -> asyncio.Future[Any]:
        future = asyncio.ensure_future(doing)
        under_way.add(future)
        future.add_done_callback(ended.put_nowait)
        return future

    async def take() -> None:
        await places.acquire()
        async for item in each(items):
            start(work(item))
            await places.acquire()

    # Beside the work, since a source may wait for its results, and in one task: a timeout of the source belongs to it.
    taking = start(take())
    try:
        while under_way:
            future = await ended.get()
            under_way.remove(future)
            result = future.result()
            if future is not taking:
                yield result
                places.release()
    finally:
        for future in under_way:
            future.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def each(items: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    """Items of any source."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
