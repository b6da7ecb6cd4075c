"""Refused before its body was read: whoever sent it gets the one answer, in time, and the connection is no trap."""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import urllib3
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from grace_server import app, cli
from grace_server.connection import Bounded
from grace_server.lag import Lag
from grace_server.middleware import refusal
from tests.hostile.conftest import Say
from tests.server.conftest import Serve, Service, until

JSON = {"content-type": "application/json"}
HEAD = b"POST /embed HTTP/1.1\r\nhost: grace\r\ncontent-type: application/json\r\n"
SMALL = b'{"input": "The river rises."}'
Answer = tuple[int, dict[str, str]]


@pytest.fixture(params=[H11Protocol, HttpToolsProtocol], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of uvicorn's parsers: which one runs depends on what is installed."""
    monkeypatch.setattr(cli, "Connection", type("Connection", (Bounded, request.param), {}))


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, every request is one too many."""

    def come() -> None:
        monkeypatch.setattr(app, "_crowded", lambda _: True)
        monkeypatch.setattr(Lag, "refuses", lambda _: True)

    return come


def documents(size: int) -> bytes:
    return b'{"input": "' + b"x" * (size - 13) + b'"}'


async def ask(service: Service, body: bytes, **headers: str) -> Answer:
    """Send all, then read, as most clients do: they learn of the answer when they have finished, or never."""

    def talk() -> Answer:
        with closing(http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=20)) as connection:
            connection.request("POST", "/embed", body, JSON | headers)
            reply = connection.getresponse()
            reply.read()
            return reply.status, {name.lower(): value for name, value in reply.getheaders()}

    return await asyncio.to_thread(talk)


async def busy(service: Service, crowd: Callable[[], None]) -> None:
    crowd()


async def draining(service: Service, crowd: Callable[[], None]) -> None:
    service.app.state.life.drain()


async def served(service: Service, crowd: Callable[[], None]) -> None:
    """Nothing is wrong but the request."""


@pytest.mark.parametrize(
    ("make", "settings", "headers", "status"),
    [
        (busy, {}, {}, 429),
        (draining, {}, {}, 503),
        (served, {"api_keys": "secret"}, {}, 401),
        (served, {"max_body_mib": 1}, {}, 413),
        (served, {}, {"content-encoding": "gzip"}, 415),
    ],
    ids=["busy", "draining", "no key", "too large", "compressed"],
)
async def test_a_refusal_reaches_who_is_still_sending(
    serve: Serve,
    crowd: Callable[[], None],
    make: Callable[[Service, Callable[[], None]], Any],
    settings: dict[str, Any],
    headers: dict[str, str],
    status: int,
) -> None:
    service = await serve(live=True, **settings)
    await make(service, crowd)
    for _ in range(4):
        answer, told = await ask(service, documents(4_000_000), **headers)
        assert answer == status
        assert told["connection"] == "close"
        assert ("retry-after" in told) == (status in (429, 503))
    assert service.engine.calls == 0


async def test_a_pool_of_connections_gets_each_answer_once(
    serve: Serve, crowd: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a head may have, less than what buffers hold: the rest of it used to be answered with a 431."""
    service = await serve(live=True, max_input_chars=1000)
    crowd()

    def talk(pool: urllib3.PoolManager, size: int) -> tuple[int, str | None]:
        reply = pool.request("POST", f"{service.url}/embed", body=documents(size), headers=JSON, retries=False)
        return reply.status, reply.headers.get("retry-after")

    with urllib3.PoolManager(1, timeout=20) as pool:
        for size in (300_000, 50_000) * 4:
            assert await asyncio.to_thread(talk, pool, size) == (429, "2")
        monkeypatch.undo()
        assert await asyncio.to_thread(talk, pool, 300_000) == (413, None)
        assert await asyncio.to_thread(talk, pool, len(SMALL)) == (200, None)


async def test_a_small_request_that_is_refused_keeps_its_connection(
    serve: Serve, say: Say, crowd: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal, "_SMALL_S", 60)  # nothing is waited for that does not come
    service = await serve(live=True)
    crowd()
    head = HEAD + b"content-length: %d\r\n" % len(SMALL)
    last = head + b"connection: close\r\n\r\n" + SMALL
    reply = await say(service, *(head + b"\r\n", SMALL) * 3, last, pause_s=0.02)
    assert reply.count(b"HTTP/1.1 429 ") == reply.count(b"HTTP/1.1 ") == 4
    assert reply.lower().count(b"connection: close") == 1


async def test_a_body_that_is_announced_and_does_not_come_holds_up_neither_the_answer_nor_the_service(
    serve: Serve, say: Say, crowd: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal, "_SMALL_S", 0.2)
    monkeypatch.setattr(refusal, "_DISCARD_S", 0.5)
    service = await serve(live=True)
    crowd()
    for length in (b"100", b"100000", b"100000000000"):
        begin = time.monotonic()
        reply = await say(service, HEAD + b"content-length: " + length + b"\r\n\r\n", *[b"{"] * 90, pause_s=0.1)
        assert time.monotonic() - begin < 8
        assert reply.startswith(b"HTTP/1.1 429 ")
        assert reply.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in reply.lower()
    await until(lambda: service.metric("grace_requests_total", route="unmatched", status="429") == 3)


async def test_what_is_thrown_away_is_bounded(
    serve: Serve, say: Say, crowd: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal, "_DISCARDED_BYTES", 1_000_000)
    monkeypatch.setattr(refusal, "_DISCARD_S", 60)
    service = await serve(live=True)
    crowd()
    pieces = [bytes(100_000)] * 1000
    reply = await say(service, HEAD + b"content-length: 100000000000\r\n\r\n", *pieces, pause_s=0.005)
    assert reply.startswith(b"HTTP/1.1 429 ")


async def test_who_asks_before_sending_is_told_not_to(
    serve: Serve, say: Say, crowd: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal, "_SMALL_S", 60)
    monkeypatch.setattr(refusal, "_DISCARD_S", 60)
    service = await serve(live=True)
    crowd()
    reply = await say(service, HEAD + b"expect: 100-continue\r\ncontent-length: 100000\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 429 ")
    assert b"connection: close" in reply.lower()


async def test_the_rest_of_a_refused_body_gets_no_answer_of_its_own(
    serve: Serve, say: Say, crowd: Callable[[], None]
) -> None:
    """It counted as a head, and was answered with a 431 as soon as it was longer than a head may be."""
    service = await serve(live=True)
    crowd()
    pieces = [bytes(50_000)] * 6
    reply = await say(service, HEAD + b"content-length: 300000\r\n\r\n", *pieces, pause_s=0.05)
    assert reply.startswith(b"HTTP/1.1 429 ")
    assert reply.count(b"HTTP/1.1 ") == 1


async def test_an_answer_that_is_not_waited_for_is_the_only_one(serve: Serve, say: Say) -> None:
    """CORS is asked before anything else, and answers before a body is there."""
    service = await serve(live=True, cors_origins="http://page.test")
    asked = b"origin: http://page.test\r\naccess-control-request-method: POST\r\ncontent-length: 300000\r\n\r\n"
    head = b"OPTIONS /embed HTTP/1.1\r\nhost: grace\r\n"
    reply = await say(service, head + asked, *[bytes(50_000)] * 6, pause_s=0.05)
    assert reply.startswith(b"HTTP/1.1 200 ")
    assert reply.count(b"HTTP/1.1 ") == 1


async def test_chunks_that_are_none_get_no_second_answer(serve: Serve, say: Say, crowd: Callable[[], None]) -> None:
    service = await serve(live=True, api_keys="secret")
    reply = await say(service, HEAD + b"transfer-encoding: chunked\r\n\r\n", b"5\r\nhello\r\nnonsense\r\n", pause_s=0.2)
    assert reply.startswith(b"HTTP/1.1 401 ")
    assert reply.count(b"HTTP/1.1 ") == 1
