"""When the client leaves, its request is cancelled, and with it the generation that nobody waits for."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Departure:
    """Watches for the end of the connection while the request runs; needs the body to be read already."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and cancel if the client leaves before the response is complete."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request: Message | None = await receive()
        handler = asyncio.current_task()
        assert handler is not None
        complete = gone = False
        left = asyncio.Event()

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
            # Servers report a finished response as a disconnect too.
            if not complete:
                gone = True
                handler.cancel()

        async def replay() -> Message:
            nonlocal request
            if request is not None:
                first, request = request, None
                return first
            await left.wait()
            return {"type": "http.disconnect"}

        async def send_and_note(message: Message) -> None:
            nonlocal complete
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        watcher = asyncio.create_task(watch())
        try:
            await self._app(scope, replay, send_and_note)
        except asyncio.CancelledError:
            if not gone:
                raise
            handler.uncancel()
        finally:
            watcher.cancel()
