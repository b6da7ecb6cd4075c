"""One JSON line and one count per finished request, and the 500 of an error that nobody expected."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grace_server import logs
from grace_server.errors import respond, translate
from grace_server.metrics import Metrics

CLIENT_LEFT = 499  # nobody reads it; nginx's word for a client that went away


class AccessLog:
    """Observes route, status and seconds. Routes are named by their template, never by the path asked for."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log_texts: bool) -> None:
        self._app, self._metrics, self._log_texts = app, metrics, log_texts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on and take note."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        record = logs.Record(request_id=scope["state"]["request_id"])
        logs.current.set(record)
        status, complete = CLIENT_LEFT, False

        async def send_and_note(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, send_and_note)
            if not complete:  # and nothing failed: who asked left in the midst of a stream, whose status had gone out
                status = CLIENT_LEFT
        except Exception as error:  # noqa: BLE001 - the last stop: whatever it is, the client gets an envelope
            logs.failure(error, record.request_id, log_texts=self._log_texts)
            if status == CLIENT_LEFT:
                await respond(translate(error, record.request_id))(scope, receive, send_and_note)
        finally:
            self._note(scope, record, status, time.perf_counter() - begin)

    def _note(self, scope: Scope, record: logs.Record, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", None) or "unmatched"
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        line = {
            "request_id": record.request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "seconds": round(seconds, 6),
        }
        if record.inputs:
            line |= {
                "inputs": record.inputs,
                "cached": record.cached,
                "truncated": record.truncated,
                "prompt_tokens": record.prompt_tokens,
                "completion_tokens": record.completion_tokens,
                "queue_s": round(record.queue_s, 6),
                "generate_s": round(record.generate_s, 6),
            }
        if record.error:
            line["error"] = record.error
        if record.texts:
            line["texts"] = record.texts
        logs.access.info("request", extra=line)
