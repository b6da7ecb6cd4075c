"""Reads a body once, up to the limit, and hands it on as text that UTF-8 can hold."""

from __future__ import annotations

import asyncio
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grace_server.errors import ApiError, Departed, Malformed, RequestTimeout, TooLarge, UnsupportedEncoding
from grace_server.metrics import Metrics
from grace_server.middleware.refusal import refuse

# What looks like an escaped surrogate of JSON: a pair of them, whose second half is the group, or one by itself. It
# begins with what is searched for fastest: a body can be nothing but escapes of other characters (Korean, say), and
# whoever searches holds Python's lock.
_ESCAPED_SURROGATE = re.compile(
    rb"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(\\u[dD][c-fC-F][0-9a-fA-F]{2})|[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_RAW_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_ESCAPED_REPLACEMENT = rb"\ufffd"
_BACKSLASH = ord("\\")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()
_LONG_BODY = 2**16  # bytes; above, mending may take longer than changing threads


class Body:
    """Limits the size, whether announced or chunked, and the time it takes; mends lone surrogates.

    JSON can name code points that are no characters; no tokenizer, database or response takes them. Like the core's
    prompt, the whole service reads them as U+FFFD.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float, metrics: Metrics) -> None:
        self._app, self._max_bytes, self._timeout_s, self._metrics = app, max_bytes, timeout_s, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on with the body in hand."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        unread = True

        async def receive_and_note() -> Message:
            nonlocal unread
            message = await receive()
            unread = message.get("more_body", False)
            return message

        try:
            _refuse_compressed(scope)
            async with asyncio.timeout(self._timeout_s):
                body = await self._read(scope, receive_and_note)
            body = await asyncio.to_thread(mend, body) if len(body) > _LONG_BODY else mend(body)
        except Departed:
            return
        except TimeoutError:
            limit = f"{self._timeout_s:g} s (body_timeout_s)"
            late = RequestTimeout(f"the body took more than {limit}")
            await refuse(late, scope, receive, send, unread=False)  # the rest has had its time
            return
        except ApiError as error:
            if error.status == 413:
                self._metrics.rejections.labels("too_large").inc()
            await refuse(error, scope, receive, send, unread=unread)
            return
        message: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal message
            if message is None:
                return await receive()
            first, message = message, None
            return first

        await self._app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and (len(announced) > 18 or int(announced) > self._max_bytes):
            raise self._too_large()
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Departed("the client left while it was sending")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
            if size > self._max_bytes:
                raise self._too_large()
        return b"".join(chunks)

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is over the limit of {self._max_bytes} bytes (max_body_mib); send fewer texts at once"
        )


def _refuse_compressed(scope: Scope) -> None:
    if any(name == b"content-encoding" and value.lower() not in (b"", b"identity") for name, value in scope["headers"]):
        raise UnsupportedEncoding("compressed bodies are not accepted: send it without content-encoding")


def mend(body: bytes) -> bytes:
    """The body with lone surrogates, escaped or raw, replaced by U+FFFD.

    Raises:
        Malformed: the body is UTF-16 or UTF-32, which Python's parser would take and JSON does not allow.
    """
    if b"\0" in body:
        raise Malformed("the body is not JSON in UTF-8")
    body = _ESCAPED_SURROGATE.sub(_mended, body)
    return _RAW_SURROGATE.sub(_REPLACEMENT, body) if b"\xed" in body else body


def _mended(match: re.Match[bytes]) -> bytes:
    """A pair as it is, and U+FFFD for a half; what follows an escaped backslash is ordinary text."""
    before = start = match.start()
    while start and match.string[start - 1] == _BACKSLASH:
        start -= 1
    if (before - start) % 2:
        return match[0][:6] + _ESCAPED_REPLACEMENT if match[1] else match[0]
    return match[0] if match[1] else _ESCAPED_REPLACEMENT
