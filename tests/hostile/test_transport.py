"""Below HTTP's meaning: clients that send slowly, too much, too little, in pieces, compressed, or no HTTP at all."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from itertools import pairwise

import pytest
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from grace.representation import Job
from grace_server import cli, places
from grace_server.connection import Bounded
from grace_server.errors import ErrorBody
from grace_server.places import Places
from tests.hostile.conftest import Say
from tests.server.conftest import Serve, Service, until

HEAD = b"POST /embed HTTP/1.1\r\nhost: grace\r\ncontent-type: application/json\r\n"
SHORT = {"header_timeout_s": 0.5, "body_timeout_s": 0.5, "send_timeout_s": 0.5}
LARGE = 12 * 2**20  # bytes, more than all buffers on the way hold


@pytest.fixture(params=[H11Protocol, HttpToolsProtocol], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of uvicorn's parsers: which one runs depends on what is installed."""
    monkeypatch.setattr(cli, "Connection", type("Connection", (Bounded, request.param), {}))


def refused(reply: bytes) -> tuple[int, str]:
    """Status and code of the one answer there is, in the envelope, with an id."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert reply.count(b"HTTP/1.1 ") == 1, reply
    assert b"x-request-id: " in head
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), ErrorBody.model_validate_json(body).error.code


async def unharmed(service: Service) -> None:
    """Whoever comes next is served, and nothing is left behind."""
    assert (await service.embed(input="still there"))["data"]
    await until(lambda: service.metric("grace_running_requests") == 0)


async def test_a_head_that_never_ends_is_cut_off(serve: Serve, say: Say) -> None:
    service = await serve(live=True, **SHORT)
    begin = time.monotonic()
    drops = [HEAD, *(b"x-%d: y\r\n" % i for i in range(100))]  # one line every 50 ms: always busy, never done
    assert refused(await say(service, *drops, pause_s=0.05)) == (408, "request_timeout")
    assert time.monotonic() - begin < 8
    await unharmed(service)


async def test_a_connection_that_says_nothing_is_closed(serve: Serve, say: Say) -> None:
    service = await serve(live=True, **SHORT)
    assert await say(service) == b""
    await unharmed(service)


async def test_a_body_that_never_ends_is_cut_off_and_holds_no_place(serve: Serve, say: Say) -> None:
    service = await serve(live=True, **SHORT)
    drops = [HEAD + b"content-length: 1000\r\n\r\n", *(b"{" for _ in range(40))]
    assert refused(await say(service, *drops, pause_s=0.05)) == (408, "request_timeout")
    assert service.engine.calls == 0
    assert service.metric("grace_requests_total", route="unmatched", status="408") == 1
    await unharmed(service)


async def test_a_body_nobody_reads_does_not_keep_its_connection(serve: Serve, say: Say) -> None:
    service = await serve(live=True, api_keys="secret", **SHORT)
    drops = [HEAD + b"content-length: 100000\r\n\r\n", *(b"{" for _ in range(40))]
    assert refused(await say(service, *drops, pause_s=0.05)) == (401, "invalid_api_key")


async def test_a_head_over_its_limit_is_refused_before_it_ends(serve: Serve, say: Say) -> None:
    service = await serve(live=True)
    flood = [HEAD, *(b"x-%d: " % i + b"y" * 8000 + b"\r\n" for i in range(200))]
    assert refused(await say(service, *flood, pause_s=0.001)) == (431, "headers_too_large")
    endless = [b"GET /" + b"a" * 50_000, *(b"a" * 50_000 for _ in range(20))]
    assert refused(await say(service, *endless, pause_s=0.001)) == (431, "headers_too_large")
    await unharmed(service)


async def test_a_head_that_never_ends_behind_a_running_request_is_not_stored(serve: Serve) -> None:
    service = await serve(live=True, seconds=3)
    host, port = service.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(HEAD + b"content-length: 14\r\n\r\n" + b'{"input": "x"}')
    await until(lambda: service.engine.calls == 1)
    writer.write(b"GET /livez HTTP/1.1\r\nhost: grace\r\n")
    sent = 0
    with suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(2):
            for i in range(64):
                writer.write(b"x-%d: " % i + b"y" * 2**20 + b"\r\n")
                await writer.drain()
                sent += 1
    writer.close()
    assert sent < 24, sent  # MiB, in the buffers of two sockets
    await unharmed(service)


@pytest.mark.parametrize("size", [14, 300_000])
async def test_whole_requests_behind_a_running_one_are_answered_in_turn(serve: Serve, say: Say, size: int) -> None:
    """However long their bodies, which are no heads, and however they are cut."""
    service = await serve(live=True, seconds=0.3, cache=False)
    body = b'{"input": "' + b"x" * (size - 13) + b'"}'
    request = HEAD + b"content-length: %d\r\n\r\n" % size + body
    last = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % size + body
    whole = request * 3 + last
    for cut in (len(request), 60_000 if size > 60_000 else 50):
        pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]
        reply = await say(service, *pieces, pause_s=0.01)
        assert reply.count(b"HTTP/1.1 200") == 4, reply[:200]
    await unharmed(service)


async def test_a_request_knows_nothing_of_the_one_before_it_on_its_connection(
    serve: Serve, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, known = Places.check, []

    def note(self: Places, jobs: Sequence[Job]) -> None:
        known.append(places._request.get())
        check(self, jobs)

    monkeypatch.setattr(Places, "check", note)
    service = await serve(live=True, cache=False)
    body = b'{"input": ["x", "y"]}' + b" " * 300_000  # more than is read before someone asks for it
    request = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    last = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    for pieces in ([request * 2 + last], [request, request, last]):
        assert (await say(service, *pieces, pause_s=0.5)).count(b"HTTP/1.1 200") == 3
    assert known == [None] * 6


async def test_a_limit_that_was_raised_holds_for_both_parsers(serve: Serve, say: Say) -> None:
    """h11 has one of its own, 64 KiB unless told otherwise, and calls what is over it no HTTP."""
    service = await serve(live=True, max_head_kib=256)
    lines = [b"x-%d: " % i + b"y" * 8000 + b"\r\n" for i in range(40)]
    end = b"connection: close\r\ncontent-length: 14\r\n\r\n" + b'{"input": "x"}'
    reply = await say(service, HEAD, *lines[:20], end, pause_s=0.001)
    assert reply.startswith(b"HTTP/1.1 200")
    assert refused(await say(service, HEAD, *lines, end, pause_s=0.001)) == (431, "headers_too_large")
    await unharmed(service)


async def test_many_small_headers_are_no_trouble(serve: Serve, say: Say) -> None:
    service = await serve(live=True)
    lines = b"".join(b"x-%d: y\r\n" % i for i in range(3000))
    reply = await say(service, HEAD + lines + b"connection: close\r\ncontent-length: 14\r\n\r\n" + b'{"input": "x"}')
    assert reply.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),  # TLS, to a port that has none
        b"NONSENSE\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST /embed HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: a\x00b\r\n\r\n",
    ],
    ids=["tls", "nonsense", "negative length", "two lengths", "NUL in a header"],
)
async def test_what_is_no_http_is_refused_in_the_envelope(serve: Serve, say: Say, rubbish: bytes) -> None:
    service = await serve(live=True, **SHORT)
    assert refused(await say(service, rubbish)) == (400, "malformed_body")
    await unharmed(service)


async def test_a_request_with_two_framings_smuggles_no_second_one(serve: Serve, say: Say) -> None:
    service = await serve(live=True, **SHORT)
    hidden = b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n"
    framings = b"transfer-encoding: chunked\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (5 + len(hidden))
    reply = await say(service, HEAD + framings + b"0\r\n\r\n" + hidden)
    assert refused(reply) == (400, "malformed_body")


async def test_a_compressed_body_is_not_unpacked(serve: Serve) -> None:
    service = await serve(live=True)
    bomb = gzip.compress(b'{"input": "' + b"x" * 50_000_000 + b'"}')
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, identity"):
        headers = {"content-type": "application/json", "content-encoding": encoding}
        reply = await service.client.post("/embed", content=bomb, headers=headers)
        assert reply.status_code == 415
        assert reply.json()["error"]["code"] == "unsupported_encoding"
    plain = {"content-type": "application/json", "content-encoding": "identity"}
    assert (await service.client.post("/embed", content=b'{"input": "x"}', headers=plain)).status_code == 200
    assert service.engine.calls == 1


@pytest.mark.parametrize("chunked", [False, True])
async def test_ten_megabytes_are_read_or_refused_and_the_service_answers_meanwhile(serve: Serve, chunked: bool) -> None:
    service = await serve(live=True)
    text = "The river rises in the hills. " * 350_000  # 10.5 MB
    body = json.dumps({"input": text}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 100_000):
            yield body[at : at + 100_000]

    content = pieces() if chunked else body
    large = asyncio.create_task(
        service.client.post("/embed", content=content, headers={"content-type": "application/json"})
    )
    waits = []
    while not large.done():
        begin = time.monotonic()
        assert (await service.client.get("/livez")).status_code == 200
        waits.append(time.monotonic() - begin)
    reply = await large
    assert reply.status_code == 413
    assert "max_input_chars" in reply.json()["error"]["message"]
    assert max(waits) < 2
    await unharmed(service)


@pytest.mark.parametrize("escaped", [True, False])
async def test_a_long_text_of_many_tokens_is_read_while_the_service_answers(serve: Serve, escaped: bool) -> None:
    """Every character of Korean or Chinese is an escape to one who writes ASCII, and a token or more to the model."""
    service = await serve(live=True)
    text = "\ud55c\u6f22" * (750_000 if escaped else 500_000)  # within max_body_mib; one within max_input_chars, too
    content = json.dumps({"input": text}, ensure_ascii=escaped).encode()
    headers = {"content-type": "application/json"}
    large = asyncio.create_task(service.client.post("/embed", content=content, headers=headers))
    waits = []
    while not large.done():
        begin = time.monotonic()
        assert (await service.client.get("/livez")).status_code == 200
        waits.append(time.monotonic() - begin)
    assert (await large).status_code == (413 if escaped else 200)
    assert max(waits) < 1
    await unharmed(service)


async def test_a_client_that_does_not_read_its_answer_is_cut_off(serve: Serve) -> None:
    service = await serve(live=True, **SHORT)
    whole = 150 * len((await service.client.get("/openapi.json")).content)  # more than all buffers on the way hold
    host, port = service.url.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: grace\r\n\r\n" * 150)
        await asyncio.sleep(2)
        client.settimeout(5)
        heard = 0
        with suppress(ConnectionResetError):
            while chunk := client.recv(2**20):
                heard += len(chunk)
        assert 0 < heard < whole, (heard, whole)
    await unharmed(service)


async def heard(service: Service, *, bytes_at_once: int, pause_s: float, seconds: float) -> int:
    """What reaches a client of LARGE bytes that reads so little at a time, for so long, and then all that comes."""
    service.app.router.routes.append(Route("/large", lambda _: Response(bytes(LARGE))))
    host, port = service.url.removeprefix("http://").split(":")
    loop, total = asyncio.get_running_loop(), 0
    with socket.socket() as client, suppress(ConnectionResetError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        client.setblocking(False)
        await loop.sock_connect(client, (host, int(port)))
        await loop.sock_sendall(client, b"GET /large HTTP/1.1\r\nhost: grace\r\nconnection: close\r\n\r\n")
        end = time.monotonic() + seconds
        while chunk := await loop.sock_recv(client, bytes_at_once if time.monotonic() < end else 2**20):
            total += len(chunk)
            await asyncio.sleep(pause_s)
    return total


async def test_a_client_that_reads_slowly_gets_all_of_a_large_answer(serve: Serve) -> None:
    service = await serve(live=True, **SHORT)
    begin = time.monotonic()
    assert await heard(service, bytes_at_once=2**16, pause_s=0.01, seconds=60) > LARGE
    assert time.monotonic() - begin > 2 * SHORT["send_timeout_s"]
    await unharmed(service)


async def test_a_client_that_reads_next_to_nothing_is_cut_off(serve: Serve) -> None:
    service = await serve(live=True, **SHORT)
    assert 0 < await heard(service, bytes_at_once=2**10, pause_s=0.05, seconds=2) < LARGE
    await unharmed(service)


async def test_a_client_that_takes_its_time_within_the_limits_is_served(serve: Serve, say: Say) -> None:
    service = await serve(live=True)
    request = HEAD + b"connection: close\r\ncontent-length: 14\r\n\r\n" + b'{"input": "x"}'
    reply = await say(service, *(request[i : i + 1] for i in range(len(request))), pause_s=0.002)
    assert reply.startswith(b"HTTP/1.1 200")


async def test_no_websocket_is_opened(serve: Serve, say: Say) -> None:
    service = await serve(live=True, api_keys="secret")
    head = b"GET /embed HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    key = b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    assert refused(await say(service, head + key)) == (401, "invalid_api_key")


@pytest.mark.parametrize("seed", range(4))
async def test_requests_in_a_row_are_answered_alike_wherever_the_network_cuts_them(
    serve: Serve, say: Say, seed: int
) -> None:
    """Heads are counted behind a request, between two, and at the start: never is one answer too many or too few.

    Seed 0 has each head come in two parts when all before it is answered: the first parts together are over the limit.
    """
    service, rng = await serve(live=True, max_head_kib=1), random.Random(seed)
    told = {b'{"input": "x"}': 200, b'{"input": 7}': 422, b"[": 400, b'{"input": "%s"}' % (b"y" * 3000): 200}
    bodies = [rng.choice(list(told)) for _ in range(40)]
    stream, within = b"", []  # and where each request begins, and nearly has its head
    for number, body in enumerate(bodies, start=1):
        asked = b"GET /livez HTTP/1.1\r\nhost: grace\r\n\r\n" if rng.random() < 0.5 else b""
        last = b"connection: close\r\n" if number == len(bodies) else b""
        within.append(len(stream))
        stream += asked + HEAD + last + b"content-length: %d\r\n\r\n" % len(body)
        within.append(len(stream) - 3)
        stream += body
    chosen = within if seed == 0 else [rng.randrange(len(stream)) for _ in range(rng.choice((3, 100, 400)))]
    cuts = sorted({0, len(stream), *chosen})
    pieces = [stream[a:b] for a, b in pairwise(cuts)]
    reply = await say(service, *pieces, pause_s=rng.choice((0, 0.001, 0.01)) if seed else 0.02)
    answers = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", reply)]
    alive = stream.count(b"GET /livez")
    assert len(answers) == len(bodies) + alive
    assert Counter(answers) == Counter([told[body] for body in bodies] + [200] * alive)
    await unharmed(service)
