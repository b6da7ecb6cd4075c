"""The life of the process: loading, ready, draining, and the two ways it can end badly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from grace_server.errors import ApiError, Draining, EngineDown, Loading
from grace_server.metrics import Metrics

Phase = Literal["loading", "ready", "draining", "failed", "dead"]

EXIT_STOPPED = 0  # drained after SIGTERM or Ctrl-C
EXIT_USAGE = 2  # a flag, variable or file says something that is no setting
EXIT_MODEL = 3  # the model could not be loaded
EXIT_ENGINE = 4  # the engine died: start the process again
EXIT_ADDRESS = 5  # the port cannot be listened on


class Life:
    """Which phase the process is in, and how many requests are inside."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._dead: Callable[[], bool] = lambda: False
        self.phase: Phase = "loading"
        self.exit_code = EXIT_STOPPED
        self.fatal = asyncio.Event()  # set when the process cannot recover

    def ready(self, dead: Callable[[], bool]) -> None:
        """Take requests from now on, for as long as the engine is not `dead`."""
        self._dead = dead
        if self.phase == "loading":
            self.phase = "ready"
            self._metrics.ready.set(1)

    def drain(self) -> None:
        """Take no more requests; those inside go on."""
        if self.phase in ("loading", "ready"):
            self.phase = "draining"
        self._metrics.ready.set(0)

    def end(self, phase: Literal["failed", "dead"]) -> None:
        """Say that the process cannot recover; whoever runs it stops it with `exit_code`. The first reason counts."""
        if self.fatal.is_set():
            return
        self.phase = phase
        self.exit_code = EXIT_MODEL if phase == "failed" else EXIT_ENGINE
        self._metrics.ready.set(0)
        self.fatal.set()

    def closed(self) -> ApiError | None:
        """Why a request cannot be taken now; None if it can."""
        match "dead" if self._dead() else self.phase:
            case "ready":
                return None
            case "loading":
                return Loading("the model is being loaded", retry_after=5)
            case "draining":
                return Draining("this process is about to stop, ask again for another one", retry_after=1)
            case "failed":
                return Loading("the model could not be loaded, this process is about to exit", retry_after=30)
            case "dead":
                return EngineDown("the engine died, this process is about to exit", retry_after=30)

    @property
    def count(self) -> int:
        """Requests inside."""
        return self._inside

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The span of one request."""
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def empty(self) -> None:
        """Wait until no request is inside."""
        await self._empty.wait()
