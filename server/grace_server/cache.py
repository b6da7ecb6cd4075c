"""A cache on disk, addressed by content: what was represented once is not computed again, not even after a restart.

It can only help: a damaged entry is a miss and is removed, and a disk that is full, slow or read-only is reported once
and then done without.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import diskcache

from grace.representation import Job, Representation
from grace_server import logs, records
from grace_server.metrics import Metrics
from grace_server.stop import Item, Stop, items_of

_Result = TypeVar("_Result")
_TROUBLE = (OSError, sqlite3.Error, diskcache.Timeout)
_RAW, _BINARY = 1, 2  # diskcache's modes for bytes, in the database or in a file


class _BytesOnly(diskcache.Disk):
    """diskcache pickles what is neither text, number nor bytes, and would unpickle whatever lies in the folder."""

    def get(self, key: Any, raw: bool) -> Any:
        if not raw:
            raise records.Damaged("a pickled key")
        return super().get(key, raw)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode not in (_RAW, _BINARY):
            raise records.Damaged("a value that is not bytes")
        return super().fetch(mode, filename, value, read)


class Cache:
    """Looks a job up before passing it on, and keeps the answer.

    All work on the disk is done by one thread, so that a slow disk delays answers but never the event loop.
    """

    def __init__(self, following: Stop, metrics: Metrics, *, folder: Path, identity: str, max_mib: int) -> None:
        self._following, self._metrics, self._identity = following, metrics, identity
        self._folder, self._max_bytes = folder, max_mib * 2**20
        self._thread = ThreadPoolExecutor(1, "grace-cache")
        self._store: Any = None
        self._warned = False

    async def open(self) -> None:
        """Open the folder; one that cannot be read is emptied, one that cannot be written is done without."""
        self._store = await self._attempt(self._open, otherwise=None)

    async def close(self) -> None:
        """Finish what is being written."""
        if self._store is not None:
            await self._attempt(self._store.close, otherwise=None)
        self._thread.shutdown(wait=True)

    async def represent(self, job: Job) -> Representation:
        """From disk, or from the next stop and then to disk. What is probed is not kept: it is asked for once."""
        if job.probe:
            return await self._following.represent(job)
        key = records.key_of(job, self._identity)
        if found := await self._look_up(key, job):
            return found
        representation = await self._following.represent(job)
        await self._keep(key, representation)
        return representation

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

    async def _look_up(self, key: str, job: Job) -> Representation | None:
        if self._store is None:
            return None
        unread: tuple[str, Representation | None] = ("error", None)
        result, found = await self._attempt(lambda: self._read(key, job), otherwise=unread)
        self._metrics.cache_lookups.labels(result).inc()
        return found

    async def _keep(self, key: str, representation: Representation) -> None:
        if self._store is not None:
            await self._attempt(lambda: self._store.set(key, records.encode(representation)), otherwise=None)

    def _open(self) -> Any:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = {"disk": _BytesOnly, "size_limit": self._max_bytes, "timeout": 1}
        try:
            return diskcache.Cache(str(self._folder), **options)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # locked, full, read-only: nothing wrong with its contents
                raise
            logs.service.warning("the cache was damaged and is emptied", extra={"error": str(error)})
            shutil.rmtree(self._folder)
            self._folder.mkdir(mode=0o700)
            return diskcache.Cache(str(self._folder), **options)

    def _read(self, key: str, job: Job) -> tuple[str, Representation | None]:
        try:
            record = self._store.get(key)
            return ("miss", None) if record is None else ("hit", records.decode(record, job))
        except records.Damaged as error:
            logs.service.warning("a damaged cache entry was removed", extra={"error": str(error)})
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
