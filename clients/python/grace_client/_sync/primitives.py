"""Waiting and doing several things at once: all that differs between the twins in more than words."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from grace_client import wire

T = TypeVar("T")
R = TypeVar("R")

sleep = time.sleep


def results_of(work: Callable[[T], R], items: Iterable[T], *, at_once: int) -> Generator[R, None, None]:
    """Results in the order in which they are ready. Never more than `at_once` under way; items are taken when needed.

    Items and results are handled in the calling thread, work is done in others. The first error ends it, once what is
    under way has ended.

    Raises:
        ValueError: `at_once` is no whole number of at least 1.
    """
    wire.positive(at_once=at_once)
    source = iter(items)
    running: set[Future[R]] = set()
    more = True
    with ThreadPoolExecutor(at_once, thread_name_prefix="grace-client") as threads:
        while True:
            while more and len(running) < at_once:
                try:
                    item = next(source)
                except StopIteration:
                    more = False
                else:
                    running.add(threads.submit(work, item))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for finished in [task for task in done if task.exception()] or done:
                yield finished.result()


def each(items: Iterable[T]) -> Iterator[T]:
    """Items of any source."""
    return iter(items)
