"""Identical jobs in flight share one generation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from grace.representation import Job, Representation
from grace_server import tracing
from grace_server.metrics import Metrics
from grace_server.stop import Item, Stop, in_background, items_of, wanted


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

    def __init__(self, following: Stop, metrics: Metrics) -> None:
        self._following, self._metrics = following, metrics
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
