"""When the client leaves, its generation stops: seen on a real port, with a real socket."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from tests.server.conftest import Serve, Service, until


async def connect(service: Service, **body: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = service.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    writer.write(
        b"POST /embed HTTP/1.1\r\nhost: grace\r\ncontent-type: application/json\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(content), content)
    )
    await writer.drain()
    return reader, writer


async def test_a_plain_request_is_cancelled(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    service = await serve(seconds=20, live=True)
    with caplog.at_level(logging.INFO):
        _, writer = await connect(service, input="a text")
        await until(lambda: service.metric("grace_running_requests") == 1)
        writer.close()
        await until(lambda: service.engine.cancelled == 1, seconds=3)
        await until(lambda: service.metric("grace_running_tokens") == 0)
        await until(lambda: service.metric("grace_requests_total", route="/embed", status="499") == 1)
    assert service.metric("grace_cancelled_total") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_streamed_request_is_cancelled(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    service = await serve(seconds=4, live=True)
    with caplog.at_level(logging.INFO):
        reader, writer = await connect(service, input="a text", stream=True)
        await reader.readuntil(b"event: rationale")
        writer.close()
        await until(lambda: service.engine.cancelled == 1, seconds=3)
        await until(lambda: service.metric("grace_running_requests") == 0)
        # Its status went out long ago, as a 200.
        await until(lambda: service.metric("grace_requests_total", route="/embed", status="499") == 1)
    assert service.metric("grace_requests_total", route="/embed", status="200") == 0
    assert service.metric("grace_cancelled_total") == 1
    assert [record.__dict__["status"] for record in caplog.records if record.name == "grace.access"] == [499]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_stream_that_was_read_to_its_end_is_a_200(serve: Serve) -> None:
    service = await serve(live=True)
    for _ in range(20):
        reader, writer = await connect(service, input="a text", stream=True)
        await reader.readuntil(b"event: done")
        writer.close()
    await until(lambda: service.metric("grace_requests_total", route="/embed", status="200") == 20)


async def test_all_texts_of_a_list_are_cancelled_queued_ones_too(serve: Serve) -> None:
    service = await serve(seconds=20, live=True, max_running_requests=2)
    _, writer = await connect(service, input=[f"text {i}" for i in range(5)])
    await until(lambda: service.metric("grace_queued_requests") == 3)
    writer.transport.abort()
    await until(lambda: service.engine.cancelled == 2, seconds=3)
    await until(lambda: service.metric("grace_queued_requests") == 0)
    assert service.engine.calls == 2


async def test_whoever_asks_for_the_same_is_not_disturbed(serve: Serve) -> None:
    service = await serve(seconds=0.5, live=True)
    _, writer = await connect(service, input="the same")
    await until(lambda: service.engine.calls == 1)
    other = asyncio.create_task(service.embed(input="the same"))
    await until(lambda: service.metric("grace_shared_total") == 1)
    writer.close()
    assert (await other)["data"]
    assert (service.engine.calls, service.engine.cancelled) == (1, 0)


async def test_a_connection_is_kept_for_the_next_request(serve: Serve) -> None:
    service = await serve(live=True)
    reader, writer = await connect(service, input="one")
    for text in ("two", "three"):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(length)
        content = json.dumps({"input": text}).encode()
        writer.write(
            b"POST /embed HTTP/1.1\r\nhost: grace\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(content), content)
        )
    writer.close()
