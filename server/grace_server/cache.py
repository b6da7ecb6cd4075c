"""A cache on disk, addressed by content: what was represented once is not computed again, not even after a restart.

It can only help: a damaged entry is a miss and is removed, and a disk that is full, slow or read-only is reported once
and then done without.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import diskcache

from grace.representation import Job, Representation
from grace_server import logs, records
from grace_server.metrics import Metrics
from grace_server.stop import Admitting, Item, items_of
from grace_server.together import together

_Result = TypeVar("_Result")
Found = tuple[str, Representation | None]  # how the look-up went, and what it found
_TROUBLE = (OSError, sqlite3.Error, diskcache.Timeout)
_DAMAGE = (records.Damaged, TypeError, ValueError, AttributeError)  # diskcache's own, of a row that it did not write
_RAW, _BINARY = 1, 2  # diskcache's modes for bytes, in the database or in a file
_UNWRITTEN = 512  # answers that may wait for the disk; of a disk that is slower, the next ones wait for it


class _Distrustful(diskcache.Disk):
    """Bytes, and files of this folder alone: diskcache would unpickle what lies in it, and open or remove any file
    that a row names.
    """

    def get(self, key: Any, raw: bool) -> Any:
        if not raw:
            raise records.Damaged("a pickled key")
        return super().get(key, raw)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode not in (_RAW, _BINARY):
            raise records.Damaged("a value that is not bytes")
        if mode == _BINARY and not _is_inside(filename):
            raise records.Damaged("a file outside the folder")
        return super().fetch(mode, filename, value, read)

    def remove(self, file_path: str) -> None:
        if _is_inside(file_path):
            super().remove(file_path)


def _is_inside(filename: object) -> bool:
    return isinstance(filename, str) and not Path(filename).is_absolute() and ".." not in Path(filename).parts


@dataclass(slots=True)
class _Trip:
    """What one trip to the disk is to do: look up, keep."""

    asked: list[tuple[str, Job, asyncio.Future[Found]]] = field(default_factory=list)
    kept: list[tuple[str, Representation]] = field(default_factory=list)
    leaves: bool = False


class Cache:
    """Looks a job up before passing it on, and keeps the answer.

    All work on the disk is done by one thread, so that a slow disk delays answers but never the event loop. What comes
    in one turn of the loop is one trip to it and one transaction: texts of a batch come, and are done, many at once.
    Answers do not wait until they are written.
    """

    def __init__(self, following: Admitting, metrics: Metrics, *, folder: Path, identity: str, max_mib: int) -> None:
        self._following, self._metrics, self._identity = following, metrics, identity
        self._folder, self._max_bytes = folder, max_mib * 2**20
        self._thread = ThreadPoolExecutor(1, "grace-cache")
        self._store: Any = None
        self._warned = False
        self._trip = _Trip()
        self._unwritten = 0
        self._trips: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open the folder; one that cannot be read is emptied, one that cannot be written is done without."""
        self._store = await self._attempt(self._open, otherwise=None)

    async def close(self) -> None:
        """Finish what is being written."""
        while self._trips:
            await asyncio.wait(self._trips)
        store, self._store = self._store, None  # who asks from now on does without
        if store is not None:
            await self._attempt(store.close, otherwise=None)
        self._thread.shutdown(wait=True)

    async def represent(self, job: Job) -> Representation:
        """From disk, or from the next stop and then to disk. What is probed is not kept: it is asked for once."""
        if job.probe:
            return await self._following.represent(job)
        key = records.key_of(job, self._identity)
        if found := await self._look_up(key, job):
            return found
        return await self._make(key, job)

    async def represent_all(self, jobs: Sequence[Job]) -> list[Representation]:
        """A request's jobs, looked up in one trip; what is not on disk is let in as a whole, or none of it."""
        asked = [(records.key_of(job, self._identity), job) for job in jobs]
        found = await self._look_up_all(asked)
        missing = [one for one, known in zip(asked, found, strict=True) if known is None]
        if missing:
            self._following.admit([job for _, job in missing])
        made = iter(await together(*(self._make(key, job) for key, job in missing)))
        return [known or next(made) for known in found]

    async def stream(self, job: Job) -> AsyncIterator[Item]:
        """The same; a rationale from disk comes in one piece."""
        key = records.key_of(job, self._identity)
        if found := await self._look_up(key, job):
            if found.rationale is not None and job.max_new_tokens and found.rationale.text:
                yield found.rationale.text
            yield found
            return
        async with items_of(self._following, job) as items:
            async for item in items:
                if isinstance(item, Representation):
                    await self._keep(key, item)
                yield item

    async def _make(self, key: str, job: Job) -> Representation:
        """From the next stop, and then to disk: each as it is made, so that a request cut short is not begun anew."""
        representation = await self._following.represent(job)
        await self._keep(key, representation)
        return representation

    async def _look_up(self, key: str, job: Job) -> Representation | None:
        [found] = await self._look_up_all([(key, job)])
        return found

    async def _look_up_all(self, asked: Sequence[tuple[str, Job]]) -> list[Representation | None]:
        if self._store is None:
            return [None] * len(asked)
        answers: list[asyncio.Future[Found]] = []
        for key, job in asked:
            answers.append(asyncio.get_running_loop().create_future())
            self._trip.asked.append((key, job, answers[-1]))
        self._depart()
        found = [await answer for answer in answers]  # one trip's, so that only the first is waited for
        for result, _ in found:
            self._metrics.cache_lookups.labels(result).inc()
        return [representation for _, representation in found]

    async def _keep(self, key: str, representation: Representation) -> None:
        if self._store is None:
            return
        self._trip.kept.append((key, representation))
        self._unwritten += 1
        self._depart()
        while self._unwritten > _UNWRITTEN and self._trips:
            await asyncio.wait(self._trips, return_when=asyncio.FIRST_COMPLETED)

    def _depart(self) -> None:
        """Have this turn's trip leave at its end, with whatever joins it until then."""
        if not self._trip.leaves:
            self._trip.leaves = True
            task = asyncio.create_task(self._go())
            self._trips.add(task)
            task.add_done_callback(self._trips.discard)

    async def _go(self) -> None:
        trip, self._trip = self._trip, _Trip()
        jobs = [(key, job) for key, job, _ in trip.asked]
        found: list[Found] = [("error", None)] * len(jobs)
        try:
            # What was kept before is found by who asks later: trips go one after the other.
            if trip.kept:
                await self._attempt(lambda: self._write(trip.kept), otherwise=None)
            if jobs:
                found = await self._attempt(lambda: [self._read(key, job) for key, job in jobs], otherwise=found)
        finally:  # however it went: whoever asked would wait for ever
            self._unwritten -= len(trip.kept)
            for (_, _, future), answer in zip(trip.asked, found, strict=True):
                if not future.done():  # whoever asked may have left
                    future.set_result(answer)

    def _write(self, kept: list[tuple[str, Representation]]) -> None:
        with self._store.transact():
            for key, representation in kept:
                self._store.set(key, records.encode(representation))

    def _open(self) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = {"disk": _Distrustful, "size_limit": self._max_bytes, "timeout": 1}
        try:
            return diskcache.Cache(str(self._folder), **options)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, full, read-only: nothing wrong with its contents
                raise
            logs.service.warning("the cache was damaged and is emptied", extra={"error": str(error)})
            shutil.rmtree(self._folder)
            self._folder.mkdir(mode=0o700)
            return diskcache.Cache(str(self._folder), **options)

    def _read(self, key: str, job: Job) -> Found:
        try:
            record = self._store.get(key)
            return ("miss", None) if record is None else ("hit", records.decode(record, job))
        except _DAMAGE as error:
            logs.service.warning("a damaged cache entry was removed", extra={"error": str(error)})
            with suppress(*_DAMAGE):  # of a file whose name is none; the row is gone by then
                self._store.delete(key)
            return "miss", None

    async def _attempt(self, work: Callable[[], _Result], *, otherwise: _Result) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except _TROUBLE as error:
            if not self._warned:
                self._warned = True
                logs.service.warning("the cache cannot be used; going on without it", extra={"error": str(error)})
            return otherwise
        except Exception as error:  # noqa: BLE001 - it can only help: no request fails, or waits, for what befell it
            logs.failure(error, "", log_texts=False)
            return otherwise
