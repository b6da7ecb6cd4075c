"""Open while the service is ready; 503 while it loads, drains, or has lost its engine. Counts who is inside.

Where requests come faster than they can be read, some are refused here, unread (`lag.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grace_server.errors import Draining, Overloaded
from grace_server.lag import Lag
from grace_server.life import Life
from grace_server.metrics import Metrics
from grace_server.middleware.refusal import refuse

_RETRY_S = 2


class Gate:
    """Routes for which `always_open` is true answer in every phase."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        life: Life,
        lag: Lag,
        crowded: Callable[[], bool],  # whether a late event loop means too many requests
        always_open: Callable[[str], bool],
        metrics: Metrics,
    ) -> None:
        self._app, self._life, self._lag, self._crowded = app, life, lag, crowded
        self._always_open, self._metrics = always_open, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on while ready."""
        if scope["type"] != "http" or self._always_open(scope["path"]):
            await self._app(scope, receive, send)
            return
        if error := self._life.closed():
            self._metrics.rejections.labels(error.code).inc()
            await refuse(error, scope, receive, send)
            return
        if self._crowded() and self._lag.refuses():
            crowded = Overloaded("requests come faster than they can be read", retry_after=_RETRY_S)
            self._metrics.rejections.labels(crowded.code).inc()
            await refuse(crowded, scope, receive, send, keep=True)
            return
        with self._life.inside():
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is cut off when the time to drain is over is told to come again, unless its answer has begun."""
        begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            request = asyncio.current_task()
            if begun or request is None or self._life.phase != "draining":
                raise
            request.uncancel()
            late = Draining("there was no time left to finish this, ask again for another process", retry_after=1)
            await refuse(late, scope, receive, send, unread=False)
