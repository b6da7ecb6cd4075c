"""The collections of a running server: what routes call. Blocking work goes to threads, embedding to the background."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from grace_server import tracing
from grace_server.index import searching
from grace_server.index.approximate import Stopped, give_way, use_threads
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.embedder import Embedder
from grace_server.index.errors import Conflict, JobNotFound, StoreUnavailable
from grace_server.index.jobs import IndexJob
from grace_server.index.mapping import Maps
from grace_server.index.model import Model
from grace_server.index.searching import Answer, Options
from grace_server.index.settings import CollectionSettings, with_defaults
from grace_server.index.writing import Change

log = logging.getLogger("grace.index")
Result = TypeVar("Result")

SEARCH_THREADS = max(2, os.cpu_count() or 2)
MAINTENANCE_S = 2.0  # between two looks at whether an index is due for a merge
MAINTENANCE = "maintenance: "  # how a doubt about it begins
LONGEST_REST_S = 600.0  # of an index whose maintenance fails, before it is tried again
EMBEDDINGS_AT_ONCE = 32  # per collection; the stops before the engine decide how many really run


class Indexes:
    """Made by `open_indexes`. Every method may be called from any request."""

    def __init__(
        self,
        catalog: Catalog,
        model: Model,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        embeddings_at_once: int = EMBEDDINGS_AT_ONCE,
    ) -> None:
        self.catalog = catalog
        self.model = model
        self.maps = Maps()
        self._monotonic = monotonic
        self._at_once = embeddings_at_once
        # One FAISS thread per search: searches run beside each other, not each on all cores.
        self._searches = ThreadPoolExecutor(SEARCH_THREADS, "search", lambda: use_threads(1))
        self._builds = ThreadPoolExecutor(1, "index build", _in_the_background)
        self._embedders: dict[str, tuple[Embedder, asyncio.Task[None]]] = {}
        self._upkeep: asyncio.Task[None] | None = None
        self._progress = asyncio.Condition()
        self._moves = 0
        self._told: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Go on with what earlier processes left."""
        for collection in self.catalog:
            self._employ(collection)
        self._upkeep = asyncio.create_task(self._maintain())

    async def close(self) -> None:
        """Stop the background work; what is not done is done after the next start."""
        tasks = [task for _, task in self._embedders.values()]
        tasks += [self._upkeep] if self._upkeep else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._told, return_exceptions=True)
        await asyncio.to_thread(self.catalog.close)
        self._searches.shutdown(cancel_futures=True)
        self._builds.shutdown(cancel_futures=True)

    async def create(self, name: str, settings: CollectionSettings) -> tuple[Collection, bool]:
        """A collection of that name and those settings, and whether it is new. Creating it again changes nothing.

        Raises:
            Conflict: there is one with other settings.
        """
        checkpoint = self.model.checkpoint
        settings, dimensions = with_defaults(settings, hidden_size=checkpoint.hidden_size)

        def equal() -> Collection | None:
            existing = next((c for c in self.catalog if c.name == name), None)
            if existing is None:
                return None
            kept, _ = with_defaults(existing.settings, hidden_size=checkpoint.hidden_size)
            if kept != settings or not self.model.fits(existing):
                raise Conflict(
                    f"there is an index {name!r} with other settings or of another model: delete it first, or "
                    "take another name",
                    param="name",
                )
            return existing

        def create() -> tuple[Collection, bool]:
            if (existing := equal()) is not None:
                return existing, False
            try:
                made = self.catalog.create(name, settings, dimensions=dimensions, fingerprint=checkpoint.fingerprint)
            except Conflict:
                if (existing := equal()) is None:
                    raise  # an alias has the name
                return existing, False  # somebody else made it since
            return made, True

        collection, new = await asyncio.to_thread(create)
        if self.catalog.has(collection):  # not deleted since
            self._employ(collection)
        return collection, new

    async def delete(self, name: str) -> None:
        """Delete a collection. A caller who leaves does not stop that."""
        collection = self.catalog.get(name)

        async def delete() -> None:
            if collection.name == name and collection.id in self._embedders:
                _, task = self._embedders.pop(collection.id)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await asyncio.to_thread(self.catalog.delete, name)

        deleting = asyncio.create_task(delete())
        deleting.add_done_callback(lambda done: self._deleted(collection, done))
        await asyncio.shield(deleting)

    async def write(self, name: str, documents: Sequence[Mapping[str, Any]], *, wait: bool) -> tuple[IndexJob, Change]:
        """Write documents; they are durable when this returns. `wait` for their vectors, too.

        Raises:
            FingerprintMismatch: texts need embedding, and the collection was built by another model.
        """
        collection = self.catalog.get(name)
        if any(document.get("vector") is None for document in documents):
            self.model.check(collection)
        # A caller who leaves now does not stop the write, so what is written must not wait for him to be embedded.
        writing = asyncio.create_task(self.on_write_thread(collection, lambda: collection.upsert(documents)))
        writing.add_done_callback(lambda done: self._written(collection, done))
        job, change = await asyncio.shield(writing)
        seen, progress = self.moves, await self.job(job)
        while wait and progress.finished_at is None:
            await self.progress(since=seen, timeout_s=1.0)
            seen, progress = self.moves, await self.job(job)
        return progress, change

    async def job(self, job: str) -> IndexJob:
        """A job's progress.

        Raises:
            JobNotFound: there is none, or its collection was deleted.
        """
        return await asyncio.to_thread(lambda: self._find_job(job)[1])

    async def cancel(self, job: str) -> IndexJob:
        """Stop a job; what is embedded stays."""
        collection, _ = await asyncio.to_thread(self._find_job, job)
        await self.on_write_thread(collection, lambda: collection.cancel(job))
        self._tell()
        return await self.job(job)

    def rate(self, job: str) -> float | None:
        """Documents per second that the collection of a job makes now."""
        collection, _ = self._find_job(job)
        embedder = self._embedders.get(collection.id)
        return embedder[0].rate if embedder else None

    @property
    def moves(self) -> int:
        """How often some job has moved on. Read it before looking at a job, and nothing is missed in between."""
        return self._moves

    async def progress(self, *, since: int, timeout_s: float) -> None:
        """Wait until some job has moved on since `moves` was read, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._progress:
                await self._progress.wait_for(lambda: self._moves != since)

    async def search(
        self, name: str, *, texts: Sequence[str | None], vectors: Sequence[object], options: Options
    ) -> tuple[list[Answer], float, float]:
        """Answers, milliseconds of embedding, milliseconds of searching."""
        collection = self.catalog.get(name)
        began = self._monotonic()
        questions = await searching.ask(self.model, collection, texts=texts, vectors=vectors, options=options)
        embedding_ms = (self._monotonic() - began) * 1000
        with tracing.span("search", {"grace.method": options.method}):
            answers, search_ms = await self.on_search_thread(lambda: searching.find(collection, questions, options))
        return answers, embedding_ms, search_ms

    async def on_search_thread(self, work: Callable[[], Result]) -> Result:
        """Run blocking work where searches run."""
        return await asyncio.get_running_loop().run_in_executor(self._searches, work)

    async def on_write_thread(self, collection: Collection, work: Callable[[], Result]) -> Result:
        """Run work that waits for the writer of a collection, where no search waits behind it."""
        return await asyncio.wrap_future(collection.on_write_thread(work))

    def _find_job(self, job: str) -> tuple[Collection, IndexJob]:
        trouble: StoreUnavailable | None = None
        for collection in self.catalog:
            try:
                found = collection.job(job)
            except StoreUnavailable as error:
                if self.catalog.has(collection):  # not deleted a moment ago
                    trouble = error
                continue
            if found is not None:
                return collection, found
        if trouble is not None:
            raise trouble  # it may be one of that collection's
        raise JobNotFound(f"there is no job {job[:80]!r}", param="job")

    def _written(self, collection: Collection, writing: asyncio.Task[tuple[str, Change]]) -> None:
        if not writing.cancelled():
            writing.exception()  # looked at, lest asyncio complain where the caller has left
        if self.catalog.has(collection):
            self._employ(collection).wake()

    def _deleted(self, collection: Collection, deleting: asyncio.Task[None]) -> None:
        if not self.catalog.has(collection) and collection.id in self._embedders:
            # A write that ended before the collection was out of sight has employed one again: its store is closed.
            _, task = self._embedders.pop(collection.id)
            task.cancel()
        if not deleting.cancelled() and deleting.exception() is not None:
            for kept in self.catalog:
                self._employ(kept)  # it is there as before, and goes on

    def _employ(self, collection: Collection) -> Embedder:
        """The embedder of a collection; of one built by another model it only waits."""
        held = self._embedders.get(collection.id)
        if held is None or held[1].done():
            embedder = Embedder(
                collection,
                self.model,
                concurrency=self._at_once,
                monotonic=self._monotonic,
                on_progress=self._tell,
            )
            runs = embedder.run() if self.model.fits(collection) else asyncio.sleep(0)
            # A context of its own: it outlives the request that starts it, and has no part in its log lines or trace.
            self._embedders[collection.id] = (embedder, asyncio.create_task(runs, context=Context()))
        return self._embedders[collection.id][0]

    def _tell(self) -> None:
        self._moves += 1

        async def tell() -> None:
            async with self._progress:
                self._progress.notify_all()

        task = asyncio.create_task(tell())
        self._told.add(task)
        task.add_done_callback(self._told.discard)

    async def _maintain(self) -> None:
        """Keep the vector indexes in shape, one at a time, beside searches and writes.

        One whose maintenance fails is left alone for twice as long each time: what fails may fail for ever.
        """
        loop = asyncio.get_running_loop()
        failed: WeakKeyDictionary[Collection, tuple[float, float]] = WeakKeyDictionary()  # rest, and its end
        while True:
            for collection in list(self.catalog):
                rested, until = failed.get(collection, (MAINTENANCE_S, 0.0))
                if collection.due() is None or self._monotonic() < until:
                    continue
                try:
                    await loop.run_in_executor(self._builds, collection.maintain)
                except Stopped:
                    continue
                except Exception as error:  # noqa: BLE001 - searches go on as before; `describe` tells
                    # The last failure alone: one that repeats itself would fill the list.
                    earlier = [doubt for doubt in collection.doubts if not doubt.startswith(MAINTENANCE)]
                    collection.doubts = [*earlier, f"{MAINTENANCE}{error}"]
                    rests = min(2 * rested, LONGEST_REST_S)
                    failed[collection] = rests, self._monotonic() + rests
                    log.warning("maintenance of index %s failed, next in %g s: %s", collection.name, rests, error)
                else:
                    failed.pop(collection, None)
            await asyncio.sleep(MAINTENANCE_S)


def _in_the_background() -> None:
    use_threads(max(1, (os.cpu_count() or 2) // 2))
    give_way()
