"""Open while the service is ready; 503 while it loads, drains, or has lost its engine. Counts who is inside."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from grace_server import logs
from grace_server.errors import respond
from grace_server.life import Life
from grace_server.metrics import Metrics


class Gate:
    """Routes for which `always_open` is true answer in every phase."""

    def __init__(self, app: ASGIApp, *, life: Life, always_open: Callable[[str], bool], metrics: Metrics) -> None:
        self._app, self._life, self._always_open, self._metrics = app, life, always_open, metrics

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
        with self._life.inside():
            await self._app(scope, receive, send)
