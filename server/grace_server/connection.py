"""One connection: uvicorn's, with bounds on what a client may take before and after a request is there.

uvicorn itself waits for ever for the rest of a head, and for a client that does not read. Whoever opens connections and
says little would use up the sockets of a service it has no key for.
"""

from __future__ import annotations

import asyncio
import secrets
from contextvars import copy_context
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.responses import Response
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from grace_server.errors import ApiError, HeadersTooLarge, Malformed, RequestTimeout, respond
from grace_server.settings import Settings

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol as Protocol

    Parser = Protocol  # one of uvicorn's two: what is used of it here, both have
else:
    Protocol, Parser = object, AutoHTTPProtocol

_LEAST_READ = 64 * 2**10  # bytes of its answer that a client takes in `send_timeout_s`, or is cut off


class Bounded(Protocol):
    """Closes what sends no whole head in time, what sends too large a one, and what does not read its answer."""

    def __init__(self, *args: Any, header_timeout_s: float, max_head_bytes: int, send_timeout_s: float, **more: Any):
        super().__init__(*args, **more)
        self._header_timeout_s, self._max_head_bytes = header_timeout_s, max_head_bytes
        self._send_timeout_s = send_timeout_s
        self._head_bytes = 0  # of a head that is not whole yet
        self._context = copy_context()
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._unread = 0  # bytes that wait for the client to read, when it was last looked at

    @classmethod
    def under(cls, settings: Settings) -> Any:
        """The class with its limits filled in: what uvicorn calls for each connection."""
        return partial(
            cls,
            header_timeout_s=settings.header_timeout_s,
            max_head_bytes=settings.max_head_kib * 1024,
            send_timeout_s=settings.send_timeout_s,
        )

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: its first head is due."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Pass on, and see whether a request has come of it."""
        cycle = self.cycle
        whole = self._inside() and not cycle.more_body
        # Whoever has the reading go on, for the rest of his body, has what is read come in his own context.
        self._context.copy().run(super().data_received, data)
        if self._inside():
            # httptools stops reading only at the end of the next head: until then this is one, and may never end. It
            # needs no timer, as the request is bounded by others. h11 has stopped, and has read once at most.
            if whole and self.cycle is cycle and not self.flow.read_paused:
                self._note_next_head(len(data))
                return
            self._head_bytes = 0
            self._cancel_late()
            return
        # The rest of a body whose answer is sent already counts as a head: it has no right to more room or time either.
        self._head_bytes += len(data)
        if self._head_bytes > self._max_head_bytes:
            self._refuse(HeadersTooLarge(f"headers are over the limit of {self._max_head_bytes} bytes (max_head_kib)"))
        elif self._late is None:
            self._expect_head()

    def on_response_complete(self) -> None:
        """The next request may be there already: it begins in the connection's context, not in that of the last one."""
        self._context.copy().run(super().on_response_complete)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._cancel_late()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads too slowly: it has a while to catch up, and another as long as it goes on reading."""
        super().pause_writing()
        if self._stalled is None:
            self._expect_reading()

    def resume_writing(self) -> None:
        """It did."""
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        if self.flow is not None:
            super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets the envelope too."""
        self._refuse(Malformed("this is not an HTTP request"))

    def _inside(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _answered(self) -> bool:
        """Whether what comes now may still belong to a request that has its answer, or part of it."""
        cycle = self.cycle
        return cycle is not None and cycle.response_started and (cycle.more_body or not cycle.response_complete)

    def _note_next_head(self, size: int) -> None:
        """Of a request behind the one that is being answered: an error would be taken for the answer to that one."""
        self._head_bytes += size
        if self._head_bytes > self._max_head_bytes:
            self.transport.abort()

    def _expect_reading(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._stalled = self.loop.call_later(self._send_timeout_s, self._look_whether_it_reads)

    def _look_whether_it_reads(self) -> None:
        """A large answer takes a slow client longer, and nothing is added to it before it has caught up."""
        if self._unread - self.transport.get_write_buffer_size() < _LEAST_READ:
            self.transport.abort()
        else:
            self._expect_reading()

    def _expect_head(self) -> None:
        self._late = self.loop.call_later(self._header_timeout_s, self._give_up)

    def _cancel_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self) -> None:
        """Nothing at all was sent, or an answer has gone out already: there is nobody to tell."""
        if self._head_bytes and self.cycle is None:
            limit = self._header_timeout_s
            self._refuse(RequestTimeout(f"headers took more than {limit:g} s (header_timeout_s)"))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        if self.transport.is_closing():
            return
        if self._answered():
            self.transport.close()  # a second answer would be taken for that to the next request
            return
        answer: Response = respond(error, headers={"x-request-id": secrets.token_hex(12), "connection": "close"})
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode()]
        lines += [name + b": " + value for name, value in answer.raw_headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + bytes(answer.body))
        self.transport.close()


class Connection(Bounded, Parser):
    """Over the parser that is installed: httptools if it is there, else h11."""
