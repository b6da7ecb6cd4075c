"""Waiting and doing several things at once: all that differs between the twins in more than words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from typing import TypeVar

from grace_client import wire

T = TypeVar("T")
R = TypeVar("R")

_worker = threading.local()  # `given_up`: set when nobody waits for the results of this thread any more


def sleep(seconds: float) -> None:
    """Wait.

    Raises:
        CancelledError: nobody waits for this work any more.
    """
    if given_up := _given_up():
        given_up.wait(seconds)
        still_wanted()
    else:
        time.sleep(seconds)


def still_wanted() -> None:
    """For work whose results nobody waits for any more, to end itself: a thread cannot be ended from outside.

    Raises:
        CancelledError: so it is.
    """
    if (given_up := _given_up()) and given_up.is_set():
        raise CancelledError


def _given_up() -> threading.Event | None:
    return getattr(_worker, "given_up", None)


def _started(work: Callable[[T], R], item: T, given_up: threading.Event) -> Future[R]:
    """Work in a thread that no program waits for at its end, as it would for those of an executor."""
    future: Future[R] = Future()

    def run() -> None:
        _worker.given_up = given_up
        try:
            future.set_result(work(item))
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, name="grace-client", daemon=True).start()
    return future


def results_of(work: Callable[[T], R], items: Iterable[T], *, at_once: int) -> Generator[R, None, None]:
    """Results in the order in which they are ready. Never more than `at_once` under way; items are taken when needed.

    Items and results are handled in the calling thread, an item after all results that are ready; work is done in
    others. The first error ends it, once what is under way has ended: requests are answered, waits broken off. Ctrl+C
    and a caller who leaves wait for nothing.

    Raises:
        ValueError: `at_once` is no whole number of at least 1.
    """
    wire.positive(at_once=at_once)
    source = iter(items)
    running: set[Future[R]] = set()
    more = True
    given_up = threading.Event()
    try:
        while more or running:
            room = more and len(running) < at_once
            done, running = wait(running, timeout=0 if room else None, return_when=FIRST_COMPLETED)
            for finished in [task for task in done if task.exception()] or done:
                yield finished.result()
            if room:
                try:
                    item = next(source)
                except StopIteration:
                    more = False
                else:
                    running.add(_started(work, item, given_up))
    except BaseException as error:
        given_up.set()
        if isinstance(error, Exception):
            wait(running)
        raise


def each(items: Iterable[T]) -> Iterator[T]:
    """Items of any source."""
    return iter(items)
