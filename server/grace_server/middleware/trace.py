"""One span per request, refused ones included, named by route and method; its id goes onto the log lines."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grace_server import logs
from grace_server.tracing import RequestSpan, Tracing


class Trace:
    """Stands inside the access log, whose record it writes its ids to. Probes and scrapes are not traced."""

    def __init__(self, app: ASGIApp, *, tracing: Tracing, silent: Collection[str]) -> None:
        self._app, self._tracing, self._silent = app, tracing, frozenset(silent)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on inside a span."""
        if scope["type"] != "http" or scope["path"] in self._silent:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracing.request(scope["method"], headers) as opened:
            record = logs.current.get() or logs.Record()
            record.trace_id, record.span_id = opened.trace_id, opened.span_id
            status: int | None = None
            complete = False

            async def send_and_note(message: Message) -> None:
                nonlocal status, complete
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)
                complete = message["type"] == "http.response.body" and not message.get("more_body", False)

            try:
                await self._app(scope, receive, send_and_note)
            except Exception as error:
                _finish(opened, scope, record, status or 500, error=type(error).__qualname__)
                raise
            _finish(opened, scope, record, status if complete else None, error=record.error or None)


def _finish(opened: RequestSpan, scope: Scope, record: logs.Record, status: int | None, *, error: str | None) -> None:
    route = getattr(scope.get("route"), "path_format", None)
    attributes: dict[str, str | int | float] = {
        "url.scheme": scope["scheme"],
        "grace.request_id": record.request_id,
        "grace.inputs": record.inputs,
        "grace.cached": record.cached,
        "grace.truncated": record.truncated,
    }
    if route is not None:
        attributes["http.route"] = route
    if status is None:
        error = "client_closed_request"
    else:
        attributes["http.response.status_code"] = status
        if error is None and status >= 500:
            error = str(status)
    opened.finish(f"{scope['method']} {route}" if route else scope["method"], attributes, error=error)
