"""One replica: a process of Ray Serve around one engine."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

from grace.errors import EngineDead, EngineError
from grace.prompt import Prompter
from grace.representation import Job, Representation
from grace_server.engine import MakeEngine, load_checkpoint
from grace_server.settings import Settings
from grace_server.stop import Item, items_of


class OtherModel(EngineError):
    """A replica runs another checkpoint than the one asked for: one of the two was updated, the other not yet."""


class EngineReplica:
    """Loads the checkpoint, then answers jobs for whoever expects that very checkpoint."""

    async def __init__(self, settings: Settings, make_engine: MakeEngine) -> None:  # type: ignore[misc] # Serve awaits
        checkpoint = await asyncio.to_thread(load_checkpoint, settings)
        self._fingerprint = checkpoint.fingerprint
        self._engine = make_engine(settings, checkpoint, await asyncio.to_thread(Prompter, checkpoint))
        try:
            await self._engine.start()
        except BaseException:
            await self._engine.close()
            raise
        gc.freeze()  # what is here for good need not be looked through again and again

    async def represent(self, fingerprint: str, job: Job) -> Representation:
        """Answer one job.

        Raises:
            OtherModel: `fingerprint` is not that of the checkpoint here.
        """
        self._check(fingerprint)
        return await self._engine.represent(job)

    async def stream(self, fingerprint: str, job: Job) -> AsyncIterator[Item]:
        """Pieces of the rationale, then the representation.

        Raises:
            OtherModel: `fingerprint` is not that of the checkpoint here.
        """
        self._check(fingerprint)
        async with items_of(self._engine, job) as items:
            async for item in items:
                yield item

    async def ready(self, fingerprint: str) -> None:
        """Answer once the engine is started.

        Raises:
            OtherModel: `fingerprint` is not that of the checkpoint here.
        """
        self._check(fingerprint)

    async def check_health(self) -> None:
        """Asked by Serve, which replaces a replica that raises."""
        if self._engine.dead:
            raise EngineDead("the engine of this replica is gone")

    async def __del__(self) -> None:
        """Called by Serve, and awaited, when the replica has drained."""
        if hasattr(self, "_engine"):
            await self._engine.close()

    def _check(self, fingerprint: str) -> None:
        if fingerprint != self._fingerprint:
            raise OtherModel(f"asked for the model {fingerprint}, this replica runs {self._fingerprint}")
