"""Waiting and doing several things at once: all that differs between the twins in more than words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

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

    The first error ends it: what is under way is cancelled.

    Raises:
        ValueError: `at_once` is no whole number of at least 1.
    """
    wire.positive(at_once=at_once)
    source = each(items)
    running: set[asyncio.Future[R]] = set()
    more = True
    try:
        while True:
            while more and len(running) < at_once:
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    more = False
                else:
                    running.add(asyncio.ensure_future(work(item)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for finished in [task for task in done if task.exception()] or done:
                yield finished.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def each(items: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    """Items of any source."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
