"""Open while the service is ready; 503 while it loads, drains, or has lost its engine. Counts who is inside.

Where requests come faster than they can be read, some are refused here, unread (`lag.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from grace_server import logs
from grace_server.errors import Overloaded, respond
from grace_server.lag import Lag
from grace_server.life import Life
from grace_server.metrics import Metrics

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
            if record := logs.current.get():
                record.error = error.code
            await respond(error, headers={"connection": "close"})(scope, receive, send)
            return
        if self._crowded() and self._lag.refuses():
            refusal = Overloaded("requests come faster than they can be read", retry_after=_RETRY_S)
            self._metrics.rejections.labels(refusal.code).inc()
            if record := logs.current.get():
                record.error = refusal.code
            await respond(refusal)(scope, receive, send)
            return
        with self._life.inside():
            await self._app(scope, receive, send)
