"""A lean HTTP/1.1 client: on two cores a load generator must not take from the server what it wants to measure.

Connections are kept and used one request at a time; when all are busy another is opened, so that nobody ever waits for
somebody else's answer. Costs about a tenth of a millisecond a request (`bench/load.py` reports its share).
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any, cast

import httptools


@dataclass(slots=True)
class Reply:
    """What came back, and when: seconds from sending to the head of the answer and to its end."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    head_s: float
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class _Answer:
    future: asyncio.Future[Reply]
    sent: float
    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    head_s: float = 0.0


class _Connection(asyncio.Protocol):
    """One connection; httptools calls the `on_` methods."""

    def __init__(self, idle: list[_Connection]) -> None:
        self._idle = idle
        self._answer: _Answer | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, data: bytes) -> asyncio.Future[Reply]:
        assert self.transport is not None
        self._answer = _Answer(asyncio.get_running_loop().create_future(), time.perf_counter())
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(data)
        return self._answer.future

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._answer:
            self._answer.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._answer:
            self._answer.status = self._parser.get_status_code()
            self._answer.head_s = time.perf_counter() - self._answer.sent

    def on_body(self, body: bytes) -> None:
        if self._answer:
            self._answer.body += body

    def on_message_complete(self) -> None:
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if self._parser.should_keep_alive():
            self._idle.append(self)
        elif self.transport:
            self.transport.close()
        if not answer.future.done():
            seconds = time.perf_counter() - answer.sent
            answer.future.set_result(Reply(answer.status, answer.headers, bytes(answer.body), answer.head_s, seconds))

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if self in self._idle:
            self._idle.remove(self)
        if self._answer and not self._answer.future.done():
            self._answer.future.set_exception(error or ConnectionError("the server closed the connection"))


class Client:
    """Sends requests to one server on this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    def request(self, path: str, body: Any, method: str = "POST") -> bytes:
        """The bytes of a request: made beforehand, they cost nothing while the clock runs."""
        payload = json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\ncontent-type: application/json\r\n"
        return head.encode() + f"content-length: {len(payload)}\r\n\r\n".encode() + payload

    async def send(self, request: bytes) -> Reply:
        """The answer to a request, whatever its status. Cancelling the call closes the connection.

        Raises:
            OSError: there is no connection, or it ended before the answer.
        """
        connection = self._idle.pop() if self._idle else await self._open()
        try:
            return await connection.send(request)
        except asyncio.CancelledError:
            if connection.transport:
                connection.transport.abort()
            raise

    async def _open(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self._idle), "127.0.0.1", self._port)
        self._all.add(connection)
        return connection

    def close(self) -> None:
        for connection in self._all:
            if connection.transport:
                connection.transport.close()
        self._all.clear()
        self._idle.clear()
