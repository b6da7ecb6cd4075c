"""How a request is refused whose body nobody reads: its sender must see the answer, and see it once."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

from grace_server import logs
from grace_server.errors import ApiError, respond

_SMALL_BYTES, _SMALL_S = 64 * 2**10, 1.0
_DISCARDED_BYTES, _DISCARD_S = 64 * 2**20, 5.0


async def refuse(
    error: ApiError, scope: Scope, receive: Receive, send: Send, *, keep: bool = False, unread: bool = True
) -> None:
    """Answer with an error and close the connection.

    Most clients send all before they look for an answer. Closed at once, the connection would be reset under their
    hands, the answer lost and with it the time after which to come again. So the answer goes out, then what they still
    send is thrown away for a while, then the connection is closed.

    Args:
        keep: Whether the connection is kept for the next request if the body is small and there: that costs the
            client less than a new one, and us no more.
        unread: Whether there may be more of the body to come.
    """
    if record := logs.current.get():
        record.error = error.code
    if keep and await _discard(scope, receive, _SMALL_BYTES, _SMALL_S):
        await respond(error)(scope, receive, send)
        return

    async def send_and_read_on(message: Message) -> None:
        if unread and message["type"] == "http.response.body":
            # The answer is complete, but the connection is closed with its end: that is said later.
            await send({**message, "more_body": True})
            await _discard(scope, receive, _DISCARDED_BYTES, _DISCARD_S)
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    await respond(error, headers={"connection": "close"})(scope, receive, send_and_read_on)


async def _discard(scope: Scope, receive: Receive, most_bytes: int, most_s: float) -> bool:
    """Read on and keep nothing, within limits; whether the body, or the connection, has ended."""
    if any(name == b"expect" for name, _ in scope["headers"]):
        return False  # it waits to be asked for the body
    try:
        async with asyncio.timeout(most_s):
            while most_bytes >= 0:
                message = await receive()
                if not message.get("more_body", False):
                    return True
                most_bytes -= len(message.get("body", b""))
    except TimeoutError:
        pass
    return False
