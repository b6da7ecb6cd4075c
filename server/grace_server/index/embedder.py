"""The background work of one collection: documents that wait for their vectors, oldest first.

Whatever is waiting is a row in SQLite, so a restart resumes it. What cannot be embedded is
recorded with the reason; a full or absent engine, and a store that cannot be used, are waited for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from grace_server.errors import ApiError
from grace_server.index.collection import Collection
from grace_server.index.model import Model
from grace_server.index.outcome import RETRY_S, Outcome, outcome_of, rest
from grace_server.index.reading import Pending
from grace_server.stop import in_background

log = logging.getLogger("grace.index")
Result = TypeVar("Result")

GATHER_S = 0.005  # answers that arrive together are committed together
RATE_WINDOW_S = 30.0


class Embedder:
    """Works until cancelled. `wake` tells it that there may be something to do.

    A store that is full or away is waited for. What else it raises, and the engine's death, is too if `patient`, and
    ends the work if not.
    """

    def __init__(
        self,
        collection: Collection,
        model: Model,
        *,
        concurrency: int,
        monotonic: Callable[[], float],
        on_progress: Callable[[], None],
        patient: bool = True,
    ) -> None:
        self._collection = collection
        self._model = model
        self._concurrency = concurrency
        self._monotonic = monotonic
        self._on_progress = on_progress
        self._patient = patient
        self._waiting = asyncio.Event()
        self._finished: deque[tuple[float, int]] = deque()

    def wake(self) -> None:
        """Look for waiting documents."""
        self._waiting.set()

    @property
    def rate(self) -> float | None:
        """Documents per second of the last half minute, or None if there were none."""
        now = self._monotonic()
        # Of a copy: it is asked for on other threads, and only the event loop changes it.
        recent = [(at, number) for at, number in tuple(self._finished) if at >= now - RATE_WINDOW_S]
        if not recent:
            return None
        # The first entry's documents were made before the window began to be measured.
        counted = sum(number for _, number in recent[1:])
        elapsed = now - recent[0][0]
        return counted / elapsed if counted and elapsed > 0 else None

    async def run(self) -> None:
        """Embed what waits, for ever. In a task of its own, whose texts let everyone else's go first."""
        in_background.set(True)
        working: dict[asyncio.Task[Outcome], int] = {}
        try:
            while True:
                self._waiting.clear()
                if free := self._concurrency - len(working):
                    for waiting in await self._pending(limit=free, skip=list(working.values())):
                        outcome = outcome_of(self._model, self._collection, waiting, patient=self._patient)
                        working[asyncio.create_task(outcome)] = waiting.label
                await self._news(working)
                if any(task.done() for task in working):
                    await asyncio.sleep(GATHER_S)
                    done = [task for task in working if task.done()]
                    made = [task for task in done if task.exception() is None]
                    await self._store([(working.pop(task), task.result()) for task in made])
                    for task in done:
                        task.result()  # raises where the engine died: what it had made before that is kept
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _news(self, working: Iterable[asyncio.Task[Outcome]]) -> None:
        """Until a document is done, or one may have come: it need not wait for those that are being embedded."""
        woken = asyncio.create_task(self._waiting.wait())
        try:
            await asyncio.wait([*working, woken], return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()

    async def _pending(self, *, limit: int, skip: list[int]) -> list[Pending]:
        return await self._insist(lambda: asyncio.to_thread(self._collection.pending, limit=limit, skip=skip))

    async def _store(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        made = [outcome for _, outcome in outcomes if not isinstance(outcome, str)]
        if made:
            await self._insist(
                self._written(lambda: self._collection.embedded(made, fingerprint=self._model.fingerprint))
            )
        for label, outcome in outcomes:
            if isinstance(outcome, str):
                await self._insist(self._written(partial(self._collection.failed, label, outcome)))
        now = self._monotonic()
        self._forget_before(now - RATE_WINDOW_S)
        self._finished.append((now, len(outcomes)))
        self._on_progress()

    def _forget_before(self, moment: float) -> None:
        while self._finished and self._finished[0][0] < moment:
            self._finished.popleft()

    def _written(self, work: Callable[[], Result]) -> Callable[[], Awaitable[Result]]:
        return lambda: asyncio.wrap_future(self._collection.on_write_thread(work))

    async def _insist(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Do it again and again until the store takes it: what was computed is not thrown away."""
        delay, told = RETRY_S, ""
        while True:
            try:
                return await work()
            except Exception as error:  # the disk is full, or worse; nobody else would go on
                if not self._patient and not isinstance(error, ApiError):
                    raise
                words = f"{type(error).__name__}: {error}"
                if words != told:
                    log.warning("embedding for index %s waits for its store: %s", self._collection.name, words)
                told = words
                delay = await rest(delay, getattr(error, "retry_after", None))
