"""The engine the ingress sees: whichever replica is free. What a replica's death interrupts is asked of another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import Context
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from grace.errors import EngineDead, EngineError
from grace.representation import Job, Representation
from grace_server import logs
from grace_server.errors import Unavailable
from grace_server.replicas.replica import OtherModel
from grace_server.stop import Item

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # before the next attempt; it doubles
COUNT_EVERY_S = 1.0

_GONE = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    ReplicaUnavailableError,
    DeploymentUnavailableError,  # Serve starts it again, or replaces the version before
)


class Lost(EngineError):
    """The replica, its engine or its machine went, which says nothing about the job."""


class NoReplica(Unavailable):
    """Every replica that was asked went away over it."""

    code = "no_replica"


class ReplicaLost(Unavailable):
    """A replica went away in the middle of a stream; what it wrote cannot be gone on with by another one."""

    code = "replica_lost"


class ReplicaEngine:
    """Hands jobs to the replicas of a deployment. Representing changes nothing anywhere, so it may be done twice."""

    def __init__(
        self,
        replicas: DeploymentHandle[Any],
        fingerprint: str,
        *,
        attempts: int,
        count: Callable[[], int],  # how many replicas run now; blocks
    ) -> None:
        self._replicas, self._fingerprint, self._attempts, self._count = replicas, fingerprint, attempts, count
        self._counting: asyncio.Task[None] | None = None
        self._running = 1

    @property
    def running(self) -> int:
        """How many replicas answer, as of a second ago; 1 while there is none: what is asked waits for the next one."""
        return self._running

    @property
    def dead(self) -> bool:
        """Never: replicas that die are replaced."""
        return False

    async def start(self) -> None:
        """Wait for the first replica, however long it loads."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self._call("ready")
                break
            except Lost:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        self._counting = asyncio.create_task(self._keep_counting())

    async def close(self) -> None:
        """Stop counting; the replicas are Serve's to stop."""
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.gather(self._counting, return_exceptions=True)

    async def represent(self, job: Job) -> Representation:
        """Answer one job, by another replica if the first one dies.

        Raises:
            NoReplica: `attempts` replicas died over it.
        """
        for pause in self._pauses():
            try:
                made: Representation = await self._call("represent", job)
                return made
            except Lost as error:
                await self._rest(pause, error)
        raise AssertionError("unreachable")

    async def stream(self, job: Job) -> AsyncIterator[Item]:
        """Pieces of the rationale, then the representation. Until the first piece as `represent`.

        Raises:
            NoReplica: `attempts` replicas died before there was a piece.
            ReplicaLost: one died after some.
        """
        for pause in self._pauses():
            begun = False
            try:
                async with aclosing(self._stream(job)) as items:
                    async for item in items:
                        begun = True
                        yield item
                return
            except Lost as error:
                if begun:
                    raise ReplicaLost(
                        "the replica that wrote this rationale is gone; ask again", retry_after=1
                    ) from error
                await self._rest(pause, error)

    async def _call(self, method: str, *arguments: Any) -> Any:
        """One call of one replica; cancelling it cancels the replica's work."""
        response = _apart(self._replicas.options(method_name=method), self._fingerprint, *arguments)
        try:
            with _translated():
                return await response
        except asyncio.CancelledError:
            response.cancel()
            raise

    async def _stream(self, job: Job) -> AsyncGenerator[Item, None]:
        response = _apart(self._replicas.options(method_name="stream", stream=True), self._fingerprint, job)
        over = False
        try:
            with _translated():
                async for item in response:
                    yield item
            over = True
        finally:
            if not over:
                response.cancel()

    def _pauses(self) -> Iterator[float | None]:
        """What to wait after each attempt, if it fails; None after the last one."""
        for attempt in range(self._attempts - 1):
            yield min(FIRST_PAUSE_S * 2**attempt, LONGEST_PAUSE_S)
        yield None

    async def _rest(self, pause: float | None, error: Lost) -> None:
        if pause is None:
            raise NoReplica(f"{self._attempts} replicas went away over this text", retry_after=30) from error
        await asyncio.sleep(pause)

    async def _keep_counting(self) -> None:
        told = False
        while True:
            try:
                self._running = max(1, await asyncio.to_thread(self._count))
                told = False
            except Exception as error:  # noqa: BLE001 - the controller may be away; the last count is as good as any
                if not told:
                    logs.service.warning("the replicas cannot be counted", extra={"error": str(error)})
                told = True
            await asyncio.sleep(COUNT_EVERY_S)


def _apart(method: DeploymentHandle[Any], *arguments: Any) -> Any:
    """Call in a context of its own.

    With an HTTP request Serve cancels every call made in its context. But the answer to a text may be waited for by
    other requests as well: who withdraws a job, and when, is for `InFlight` to say.
    """
    return Context().run(method.remote, *arguments)


@contextmanager
def _translated() -> Iterator[None]:
    """What a replica raised, as it raised it; what befell the replica itself as `Lost`."""
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, EngineDead | OtherModel):
            raise Lost(str(error.cause)) from error
        raise error.cause from None
    except _GONE as error:
        raise Lost("the replica is gone") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody here asked for it: the replica was told to stop while it worked.
        raise Lost("the replica gave the job up") from error
