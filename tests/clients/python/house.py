"""The real application on a loop of its own, and transports that reach it without a socket.

httpx's own ASGI transport hands a response over when it is complete; these hand it on as it comes, and tell the
application when the reader has left. They may be used from any thread and any loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import httpx
import uvicorn
from fastapi import FastAPI

from grace.engines.base import Delta
from grace.engines.fake import FakeEngine
from grace.errors import InvalidInput
from grace.prompt import Prompter
from grace.representation import Job, Representation
from grace_server import cli
from grace_server.app import create_app
from grace_server.settings import Settings

T = TypeVar("T")


@dataclass
class House:
    """An application that runs, and what a test may look at behind it."""

    app: FastAPI
    engine: FakeEngine
    loop: asyncio.AbstractEventLoop
    requests: list[httpx.Request] = field(default_factory=list)  # all that came in through the transports
    url: str = ""  # of one that also listens

    def fails_at(self, word: str) -> AbstractContextManager[object]:
        """Texts with a word in them are more than its engine can do."""
        stream = self.engine.stream

        def broken(job: Job) -> AsyncIterator[Delta | Representation]:
            if word in job.text:
                raise InvalidInput(f"{word} is too much", param="text")
            return stream(job)

        return mock.patch.object(self.engine, "stream", broken)

    def call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Do something on the application's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    @property
    def transport(self) -> Transport:
        return Transport(self)

    @property
    def async_transport(self) -> AsyncTransport:
        return AsyncTransport(self)


@contextlib.contextmanager
def running(
    folder: Path, prompter: Prompter, *, listening: bool = False, seconds: float = 0.0, **settings: Any
) -> Iterator[House]:
    """A service around the fake engine; `listening` on a free port as well."""
    chosen = Settings(**{"data_dir": folder / "data", "model": str(prompter.checkpoint.folder), "port": 0, **settings})
    engine = FakeEngine(prompter, seconds_per_text=seconds)
    app = create_app(chosen, engine=engine, checkpoint=prompter.checkpoint)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="house")
    thread.start()
    house = House(app, engine, loop)
    end = asyncio.Event()
    ready: Future[None] = Future()
    ended = house.call(_live(house, chosen, ready, end, listening))
    try:
        wait([ready, ended], return_when=FIRST_COMPLETED)
        if ended.done():
            ended.result()  # raises what went wrong
        yield house
    finally:
        loop.call_soon_threadsafe(end.set)
        wait([ended], timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _live(house: House, settings: Settings, ready: Future[None], end: asyncio.Event, listening: bool) -> None:
    life = house.app.state.life
    async with contextlib.AsyncExitStack() as stack:
        if listening:
            listener = cli.listen(settings)
            house.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            server = uvicorn.Server(uvicorn.Config(house.app, log_config=None, timeout_graceful_shutdown=5))
            served = asyncio.create_task(server.serve(sockets=[listener]))
            stack.push_async_callback(asyncio.wait, [served], timeout=20)
            stack.callback(setattr, server, "should_exit", True)
        else:
            await stack.enter_async_context(house.app.router.lifespan_context(house.app))
        async with asyncio.timeout(60):
            while life.phase == "loading":  # noqa: ASYNC110 - being ready has no event
                await asyncio.sleep(0.005)
        assert life.phase == "ready", "the log says why"
        ready.set_result(None)
        await end.wait()


class _Exchange:
    """One request and its response, on the application's loop."""

    def __init__(self, app: FastAPI, request: httpx.Request, body: bytes) -> None:
        self.status, self.headers = 0, list[tuple[bytes, bytes]]()
        self._started = asyncio.Event()
        self._left = asyncio.Event()
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._body: bytes | None = body
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "scheme": request.url.scheme,
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "server": (request.url.host, request.url.port),
            "client": ("client", 1),
            "root_path": "",
        }
        self._task = asyncio.create_task(app(scope, self._receive, self._send))
        self._task.add_done_callback(lambda _: (self._chunks.put_nowait(None), self._started.set()))

    async def begun(self) -> None:
        await self._started.wait()
        if not self.status:
            await self._task  # raises what the application raised
            raise AssertionError("the application did not answer")

    async def chunk(self) -> bytes | None:
        return await self._chunks.get()

    async def leave(self) -> None:
        self._left.set()
        await asyncio.wait([self._task], timeout=10)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
            self._started.set()
        elif message.get("body"):
            self._chunks.put_nowait(message["body"])


async def _exchange(house: House, request: httpx.Request, body: bytes) -> _Exchange:
    house.requests.append(request)
    exchange = _Exchange(house.app, request, body)
    await exchange.begun()
    return exchange


class Transport(httpx.BaseTransport):
    """For a synchronous client."""

    def __init__(self, house: House) -> None:
        self._house = house

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        exchange = self._house.call(_exchange(self._house, request, request.read())).result()
        return httpx.Response(exchange.status, headers=exchange.headers, stream=_Stream(self._house, exchange))


class _Stream(httpx.SyncByteStream):
    def __init__(self, house: House, exchange: _Exchange) -> None:
        self._house, self._exchange = house, exchange

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._house.call(self._exchange.chunk()).result()) is not None:
            yield chunk

    def close(self) -> None:
        self._house.call(self._exchange.leave()).result()


class AsyncTransport(httpx.AsyncBaseTransport):
    """For an asynchronous client, on whichever loop it runs."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        exchange = await asyncio.wrap_future(self._house.call(_exchange(self._house, request, body)))
        return httpx.Response(exchange.status, headers=exchange.headers, stream=_AsyncStream(self._house, exchange))


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, house: House, exchange: _Exchange) -> None:
        self._house, self._exchange = house, exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await asyncio.wrap_future(self._house.call(self._exchange.chunk()))) is not None:
            yield chunk

    async def aclose(self) -> None:
        await asyncio.wrap_future(self._house.call(self._exchange.leave()))
