"""Identical jobs in flight share one generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from grace.representation import Job, Representation
from grace_server import tracing
from grace_server.metrics import Metrics
from grace_server.stop import Item, Stop, in_background, items_of, wanted
from grace_server.together import together


def _room_enough(_: Sequence[Job]) -> None:
    """Whatever comes is taken: what lies behind has no limits."""


@dataclass(slots=True, eq=False)
class _Flight:
    task: asyncio.Task[Representation]
    wanted: asyncio.Future[None]  # done as soon as someone waits who is no background work
    waiting: int = 0


class InFlight:
    """Everyone who asks for a job that is under way waits for the same answer.

    A caller who leaves does not disturb the others; when the last one leaves, the generation is cancelled. Background
    work that someone waits for, too, waits for its place among requests from then on.
    """

    def __init__(
        self,
        following: Stop,
        metrics: Metrics,
        *,
        check: Callable[[Sequence[Job]], None] = _room_enough,  # raises if there is no room for all of these
    ) -> None:
        self._following, self._metrics, self._check = following, metrics, check
        self._flights: dict[Job, _Flight] = {}

    async def represent(self, job: Job) -> Representation:
        """Join the flight of this job, or start it."""
        flight = self._flights.get(job)
        if flight is not None:
            self._metrics.shared.inc()
            with tracing.span("shared"):
                return await self._wait(job, flight)
        someone = asyncio.get_running_loop().create_future()
        flight = self._flights[job] = _Flight(asyncio.create_task(self._fly(job, someone)), someone)
        flight.task.add_done_callback(lambda task: self._landed(job, task))
        return await self._wait(job, flight)

    async def represent_all(self, jobs: Sequence[Job]) -> list[Representation]:
        """A request's jobs, each in a flight; equal ones in the same."""
        self.admit(jobs)
        return await together(*(self.represent(job) for job in jobs))

    def admit(self, jobs: Sequence[Job]) -> None:
        """Whether there is room for those of a request's jobs that need some: equal ones need it once, others' none."""
        if new := [job for job in dict.fromkeys(jobs) if not self._has_a_place(job)]:
            self._check(new)

    def _has_a_place(self, job: Job) -> bool:
        """Whether it is under way, and not as background work: that is brought into the queue by who joins it."""
        flight = self._flights.get(job)
        return flight is not None and flight.wanted.done()

    async def stream(self, job: Job) -> AsyncIterator[Item]:
        """Not shared: a second reader would have missed the beginning."""
        async with items_of(self._following, job) as items:
            async for item in items:
                yield item

    async def _fly(self, job: Job, someone: asyncio.Future[None]) -> Representation:
        wanted.set(someone)
        return await self._following.represent(job)

    async def _wait(self, job: Job, flight: _Flight) -> Representation:
        if not in_background.get() and not flight.wanted.done():
            flight.wanted.set_result(None)
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                # From here on nobody may join: a newcomer starts a flight of its own.
                del self._flights[job]
                flight.task.cancel()

    def _landed(self, job: Job, task: asyncio.Task[Representation]) -> None:
        if (flight := self._flights.get(job)) is not None and flight.task is task:
            del self._flights[job]
        if not task.cancelled():
            task.exception()  # looked at, lest asyncio complain where every caller has left
