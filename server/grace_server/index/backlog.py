"""Working through what waits for its vector, outside of a server: with a bound on how much may wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from grace.errors import EngineDead
from grace_server.index import reading
from grace_server.index.collection import Collection
from grace_server.index.embedder import Embedder
from grace_server.index.model import Model

CONCURRENCY = 64  # documents handed to the engine at once

Advance = Callable[[int], None]  # told how many more documents are done with


class Backlog:
    """Embeds what waits while the block lasts."""

    def __init__(
        self, collection: Collection, model: Model, *, advance: Advance = lambda _: None, concurrency: int = CONCURRENCY
    ) -> None:
        self._collection = collection
        self._advance = advance
        self._moved = asyncio.Event()
        self._embedder = Embedder(
            collection,
            model,
            concurrency=concurrency,
            monotonic=time.monotonic,
            on_progress=self._moved.set,
            patient=False,  # somebody sits before the command, and is told
        )
        self._waiting = 0

    async def __aenter__(self) -> Self:
        self._waiting = await self._count()
        self._work = asyncio.create_task(self._embedder.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    async def grew(self) -> None:
        """Tell that documents were written."""
        self._waiting = await self._count()
        self._embedder.wake()

    async def below(self, limit: int) -> None:
        """Wait until fewer than `limit` documents wait.

        Raises:
            EngineDead: it will embed no more. What it had embedded is kept, and the rest waits.
        """
        while self._waiting >= limit:
            moved = asyncio.create_task(self._moved.wait())
            await asyncio.wait({moved, self._work}, return_when=asyncio.FIRST_COMPLETED)
            moved.cancel()
            if self._work.done():
                self._end()
            self._moved.clear()
            now = await self._count()
            self._advance(self._waiting - now)
            self._waiting = now

    def _end(self) -> None:
        try:
            self._work.result()
        except EngineDead as error:
            raise EngineDead(f"{error}: what is embedded is kept, and the same command goes on") from error

    async def _count(self) -> int:
        return await asyncio.to_thread(self._collection.store.read, reading.number_pending)


async def embed_pending(collection: Collection, model: Model, *, advance: Advance = lambda _: None) -> None:
    """Embed all documents that wait; returns when none is left."""
    async with Backlog(collection, model, advance=advance) as backlog:
        await backlog.below(1)
