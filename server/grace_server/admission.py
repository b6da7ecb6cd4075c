"""A text's way through the engine: a place for as long as it takes, a time limit, and what is noted of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from grace.engines.base import Delta
from grace.errors import EngineError
from grace.representation import Job, Representation
from grace_server import logs, tracing
from grace_server.errors import GenerationTimeout
from grace_server.metrics import Metrics
from grace_server.places import Limits, Places, engine_down
from grace_server.stop import Item, Stop, items_of


@dataclass(frozen=True, slots=True)
class _Inside:
    """A text inside the engine: since when, and its span."""

    begin: float
    span: tracing.StopSpan


class Admission:
    """The stop in front of the engine: `Places` say who gets in, and when."""

    def __init__(
        self,
        following: Stop,
        limits: Limits,
        metrics: Metrics,
        *,
        generate_timeout_s: float,  # of one text inside the engine
        engines: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._following, self._metrics, self._clock = following, metrics, clock
        self._generate_timeout_s = generate_timeout_s
        self._inside: set[asyncio.Timeout] = set()
        self.places = Places(limits, metrics, engines=engines, clock=clock)

    async def represent(self, job: Job) -> Representation:
        """Wait for a place, then ask the engine."""
        async with self.places.reserve(job.tokens_needed), self._watched() as inside:
            representation = await self._following.represent(job)
            self._observe(job, representation, inside)
        return representation

    async def stream(self, job: Job) -> AsyncIterator[Item]:
        """Wait for a place, then pass on what the engine writes.

        The engine is listened to by a task of its own. Whoever reads here may be slow, and be another task each time:
        he would hold the place for as long as he likes, and what ends the writing would end the wrong task. What waits
        to be read is a rationale at most, so it needs no bound of its own.
        """
        pieces: asyncio.Queue[Delta | None] = asyncio.Queue()
        writing = asyncio.create_task(self._write(job, pieces))
        writing.add_done_callback(lambda task: _end(task, pieces))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            yield await writing
        finally:
            if not writing.done():
                writing.cancel()
                await asyncio.wait([writing])

    async def _write(self, job: Job, pieces: asyncio.Queue[Delta | None]) -> Representation:
        representation: Representation | None = None
        async with (
            self.places.reserve(job.tokens_needed),
            self._watched() as inside,
            items_of(self._following, job) as items,
        ):
            async for item in items:
                if isinstance(item, Representation):
                    self._observe(job, representation := item, inside)
                else:
                    pieces.put_nowait(item)
        if representation is None:
            raise EngineError("a stream ended without its representation")
        return representation

    def fail(self) -> None:
        """The engine is dead: end everyone's waiting, inside and outside, and let nobody in."""
        self.places.fail()
        now = asyncio.get_running_loop().time()
        for scope in self._inside:
            if not scope.expired():  # what is ending already cannot be brought forward
                scope.reschedule(now)

    @asynccontextmanager
    async def _watched(self) -> AsyncIterator[_Inside]:
        """The time inside the engine: it ends too late, or with the engine's death, as an error of its own."""
        scope = asyncio.timeout(self._generate_timeout_s)
        self._inside.add(scope)
        try:
            with tracing.span("generate") as span:
                async with scope:
                    yield _Inside(self._clock(), span)
        except TimeoutError:
            if self.places.down:
                raise engine_down() from None
            limit = self._generate_timeout_s
            raise GenerationTimeout(f"the engine took more than {limit:g} s (generate_timeout_s)") from None
        except asyncio.CancelledError:
            self._metrics.cancelled.inc()
            raise
        finally:
            self._inside.discard(scope)

    def _observe(self, job: Job, representation: Representation, inside: _Inside) -> None:
        now = self._clock()
        metrics, seconds = self._metrics, now - inside.begin
        self.places.done(job.tokens_needed)
        inside.span.note(
            {
                "gen_ai.usage.input_tokens": representation.prompt_tokens,
                "gen_ai.usage.output_tokens": representation.completion_tokens,
            }
        )
        metrics.generate_seconds.observe(seconds)
        metrics.prompt_tokens.inc(representation.prompt_tokens)
        metrics.completion_tokens.inc(representation.completion_tokens)
        if representation.rationale is not None:
            metrics.finished.labels(representation.rationale.finish_reason).inc()
            if job.max_new_tokens:
                metrics.rationale_tokens.observe(representation.rationale.tokens)
                inside.span.note({"grace.finish_reason": representation.rationale.finish_reason})
        if record := logs.current.get():
            record.generate_s = max(record.generate_s, seconds)


def _end(writing: asyncio.Task[Representation], pieces: asyncio.Queue[Delta | None]) -> None:
    if not writing.cancelled():
        writing.exception()  # looked at, lest asyncio complain where the reader has left
    pieces.put_nowait(None)
