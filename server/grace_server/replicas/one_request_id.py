"""Behind Serve's proxy a response gets its `x-request-id` there; ours is the same one, and once is enough."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class OneRequestId:
    """Leaves the header to the proxy, which also made the id, or took the caller's, before the request came here."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, without the header of the response."""

        async def send_without(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [(name, value) for name, value in message.get("headers", []) if name != b"x-request-id"]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_without)
