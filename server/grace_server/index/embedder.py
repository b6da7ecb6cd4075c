"""The background work of one collection: documents that wait for their vectors, oldest first.

Whatever is waiting is a row in SQLite, so a restart goes on where the last process was. What cannot be embedded is
recorded with the reason; a full or absent engine is waited for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from grace.errors import EngineDead, EngineError, GraceError
from grace_server.errors import ApiError
from grace_server.index.collection import Collection
from grace_server.index.model import Model
from grace_server.index.reading import Pending
from grace_server.index.writing import Embedded
from grace_server.stop import in_background

ATTEMPTS = 3  # of a text at which the engine fails
RETRY_S, LONGEST_RETRY_S = 0.5, 30.0
GATHER_S = 0.005  # answers that arrive together are committed together
RATE_WINDOW_S = 30.0

Outcome = Embedded | str  # or why not


class Embedder:
    """Works until cancelled. `wake` tells it that there may be something to do."""

    def __init__(
        self,
        collection: Collection,
        model: Model,
        *,
        concurrency: int,
        monotonic: Callable[[], float],
        on_progress: Callable[[], None],
    ) -> None:
        self._collection = collection
        self._model = model
        self._concurrency = concurrency
        self._monotonic = monotonic
        self._on_progress = on_progress
        self._waiting = asyncio.Event()
        self._finished: deque[tuple[float, int]] = deque()

    def wake(self) -> None:
        """Look for waiting documents."""
        self._waiting.set()

    @property
    def rate(self) -> float | None:
        """Documents per second of the last half minute, or None if there were none."""
        now = self._monotonic()
        while self._finished and self._finished[0][0] < now - RATE_WINDOW_S:
            self._finished.popleft()
        if not self._finished:
            return None
        # The first entry's documents were made before the window began to be measured.
        counted = sum(number for _, number in list(self._finished)[1:])
        elapsed = now - self._finished[0][0]
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
                        working[asyncio.create_task(self._embed(waiting))] = waiting.label
                if not working:
                    await self._waiting.wait()
                    continue
                await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
                await asyncio.sleep(GATHER_S)
                done = [task for task in working if task.done()]
                await self._store([(working.pop(task), task.result()) for task in done])
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _pending(self, *, limit: int, skip: list[int]) -> list[Pending]:
        delay = RETRY_S
        while True:
            try:
                return await asyncio.to_thread(self._collection.pending, limit=limit, skip=skip)
            except ApiError as error:
                delay = await _rest(delay, error.retry_after)

    async def _store(self, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        made, failures = [], []
        for label, outcome in outcomes:
            if isinstance(outcome, str):
                failures.append((label, outcome))
            else:
                made.append(outcome)
        delay = RETRY_S
        while True:
            try:
                if made:
                    await asyncio.to_thread(self._collection.embedded, made, fingerprint=self._model.fingerprint)
                    made = []
                while failures:
                    await asyncio.to_thread(self._collection.failed, *failures[-1])
                    failures.pop()
                break
            except ApiError as error:  # the disk is full: what was computed is not thrown away
                delay = await _rest(delay, error.retry_after)
        self._finished.append((self._monotonic(), len(outcomes)))
        self._on_progress()

    async def _embed(self, waiting: Pending) -> Outcome:
        """Embed one document, waiting for the engine as long as it takes."""
        failures, delay = 0, RETRY_S
        while True:
            try:
                return await self._attempt(waiting)
            except EngineDead:
                delay = await _rest(delay, None)  # the process ends, or someone starts the engine again
            except (ApiError, EngineError) as error:
                status = error.status if isinstance(error, ApiError) else 500
                if status in (429, 503):
                    delay = await _rest(delay, getattr(error, "retry_after", None))
                    continue
                failures += 1
                if status < 500 or failures == ATTEMPTS:
                    return str(error)
                delay = await _rest(delay, None)
            except GraceError as error:
                return str(error)
            except Exception as error:  # noqa: BLE001 - one document's trouble must not stop the others, nor get lost
                return f"{type(error).__name__}: {error}"

    async def _attempt(self, waiting: Pending) -> Embedded:
        settings = self._collection.settings
        made = await self._model.embed(
            self._collection, waiting.text, role="document", mode=settings.document_mode, given=waiting.rationale
        )
        sums = None if settings.sums == "none" else made.representation.sums
        if sums is not None and settings.sums == "float16":
            # Sums of many tokens could pass what half precision can hold; explanations know no common factor.
            sums = (sums / made.representation.pooled_tokens).astype(sums.dtype)
        return Embedded(
            label=waiting.label,
            vector=made.vector,
            rationale=made.representation.rationale,
            thinking_open=made.job.thinking_open,
            truncated=made.representation.truncated,
            segments=made.representation.segments,
            sums=sums,
            precision="float16" if settings.sums == "float16" else "float32",
        )


async def _rest(delay: float, told: float | None) -> float:
    """Wait as long as one is told, or a while that doubles; the next delay."""
    await asyncio.sleep(min(told if told is not None else delay, LONGEST_RETRY_S))
    return min(delay * 2, LONGEST_RETRY_S)
