"""What every stop on a text's way looks like: the engine itself, and whatever is wrapped around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from contextvars import ContextVar
from typing import Protocol, cast

from grace.engines.base import Delta
from grace.representation import Job, Representation

Item = Delta | Representation

# Whether nobody waits for the answer: what an index embeds by and by lets searches and requests go first.
in_background: ContextVar[bool] = ContextVar("in_background", default=False)

# Done as soon as someone waits for what began in the background. None: nobody can join it.
wanted: ContextVar[asyncio.Future[None] | None] = ContextVar("wanted", default=None)


class Stop(Protocol):
    """Takes a job, gives its representation, asking the next stop if it must."""

    async def represent(self, job: Job) -> Representation:
        """Answer one job. Cancelling the call withdraws it."""

    def stream(self, job: Job) -> AsyncIterator[Item]:
        """Pieces of the rationale as they are written, then the representation, once, last."""


class Admitting(Stop, Protocol):
    """A stop that can be asked about a whole request before any of its jobs sets out."""

    def admit(self, jobs: Sequence[Job]) -> None:
        """Whether all of them can be taken at once, so that none waits in vain for its neighbours."""


class Front(Stop, Protocol):
    """The first stop: it takes the jobs of a request together, too."""

    async def represent_all(self, jobs: Sequence[Job]) -> list[Representation]:
        """Answer all or none. Only those that no stop on the way knows need room in the engine. None is probed."""


def items_of(stop: Stop, job: Job) -> AbstractAsyncContextManager[AsyncGenerator[Item, None]]:
    """The stream of a stop, closed at the end of the scope: an abandoned one would go on writing until collected."""
    return aclosing(cast("AsyncGenerator[Item, None]", stop.stream(job)))
