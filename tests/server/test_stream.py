"""Server-sent events: the rationale as it is written, then the vector."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest
from starlette.types import Message

from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace.representation import Representation
from grace_server.admission import Admission
from grace_server.errors import ApiError, EngineDown, GenerationTimeout
from grace_server.metrics import Metrics
from grace_server.places import Limits
from grace_server.stop import Item, items_of
from tests.server.conftest import Serve, Service, until

LIMITS = Limits(1, 10_000, 100, 1_000_000, queue_timeout_s=5)


def events(body: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in body.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def streamed(client: httpx.AsyncClient, **body: Any) -> list[tuple[str, dict[str, Any]]]:
    reply = await client.post("/embed", json={**body, "stream": True})
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-request-id"]
    return events(reply.text)


async def test_deltas_then_the_vector_then_done(serve: Serve) -> None:
    service = await serve(cache=False)
    found = await streamed(service.client, input="a text", explain=True)
    assert [name for name, _ in found] == ["rationale"] * 4 + ["embedding", "done"]
    plain = await service.embed(input="a text", explain=True)
    assert found[-2][1] == plain["data"][0]
    assert "".join(data["delta"] for _, data in found[:4]) == plain["data"][0]["rationale"]["text"]
    assert found[-1][1] == {key: plain[key] for key in ("model", "fingerprint", "usage")}


async def test_a_cached_rationale_comes_in_one_piece_and_a_streamed_one_is_cached(serve: Serve) -> None:
    service = await serve()
    first = await streamed(service.client, input="a text")
    second = await streamed(service.client, input="a text")
    assert [name for name, _ in second] == ["rationale", "embedding", "done"]
    assert (first[-2][1].pop("cached"), second[-2][1].pop("cached")) == (False, True)
    assert first[-2] == second[-2]
    assert service.engine.calls == 1


@pytest.mark.parametrize("options", [{"mode": "direct"}, {"rationale": "given"}])
async def test_what_writes_nothing_streams_the_vector_alone(serve: Serve, options: dict[str, Any]) -> None:
    service = await serve()
    for _ in range(2):
        assert [name for name, _ in await streamed(service.client, input="a text", **options)] == ["embedding", "done"]


async def test_pieces_arrive_while_the_rest_is_being_written(serve: Serve) -> None:
    service = await serve(seconds=0.8, live=True)
    loop = asyncio.get_running_loop()
    arrived: list[float] = []
    async with service.client.stream("POST", "/embed", json={"input": "a text", "stream": True}) as reply:
        async for line in reply.aiter_lines():
            if line.startswith("event:"):
                arrived.append(loop.time())
    assert arrived[3] - arrived[0] > 0.3


async def test_what_fails_before_the_first_piece_has_a_status(serve: Serve) -> None:
    service = await serve(seconds=0.5, max_running_requests=1, max_queued_requests=0, max_inputs=1, max_samples=1)
    busy = asyncio.create_task(service.embed(input="busy"))
    await until(lambda: service.metric("grace_running_requests") == 1)
    reply = await service.client.post("/embed", json={"input": "a text", "stream": True})
    assert reply.status_code == 429
    assert reply.headers["retry-after"]
    await busy


async def test_what_fails_later_is_an_event_with_the_envelope(serve: Serve) -> None:
    service = await serve(seconds=4, live=True)
    received = ""
    async with service.client.stream("POST", "/embed", json={"input": "a text", "stream": True}) as reply:
        assert reply.status_code == 200
        async for piece in reply.aiter_text():
            if not received:
                service.engine.kill()
            received += piece
    found = events(received)
    assert found[0][0] == "rationale"
    assert found[-1][0] == "error"
    assert found[-1][1]["error"].keys() == {"message", "type", "param", "code"}
    assert found[-1][1]["error"]["code"] == "engine_down"


async def test_an_engine_that_takes_too_long_is_an_event_too_and_no_error_of_the_service(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    service = await serve(seconds=8, live=True, generate_timeout_s=3)
    found = await streamed(service.client, input="a text")
    assert [name for name, _ in found] == ["rationale", "error"]
    assert found[-1][1]["error"]["code"] == "generation_timeout"
    await until(lambda: service.metric("grace_requests_total", route="/embed", status="200") == 1)
    assert (service.engine.cancelled, service.metric("grace_running_requests")) == (1, 0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@dataclass
class SlowClient:
    """Takes the first piece, or the head, then nothing until it is told to go on, as one whose buffers are full."""

    service: Service
    takes: str = "http.response.body"
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    stuck: bool = False
    body: bytes = b""
    complete: bool = False

    async def ask(self) -> None:
        """The application as uvicorn runs it, which speaks ASGI 2.3: a stream is sent by a task of its own."""
        content = json.dumps({"input": "a text", "stream": True}).encode()
        request = iter([{"type": "http.request", "body": content, "more_body": False}])

        async def receive() -> Message:
            if (message := next(request, None)) is None:
                await self.left.wait()
                return {"type": "http.disconnect"}
            return message

        async def send(message: Message) -> None:
            self.body += message.get("body", b"")
            if message["type"] == self.takes and not self.goes_on.is_set():
                self.stuck = True
                await self.goes_on.wait()
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self.complete = True
                self.left.set()

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/embed",
            "raw_path": b"/embed",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        await self.service.app(scope, receive, send)


@pytest.mark.parametrize("ends", ["too late", "dead"])
async def test_who_reads_slowly_learns_all_the_same_how_it_ended(serve: Serve, ends: str) -> None:
    service = await serve(seconds=4, generate_timeout_s=2.5 if ends == "too late" else 600)
    client = SlowClient(service)
    asking = asyncio.create_task(client.ask())
    await until(lambda: client.stuck)
    if ends == "dead":
        service.engine.kill()
    await until(lambda: service.metric("grace_running_requests") == 0)
    assert not asking.done(), "its own task has nothing to do with the engine's"
    client.goes_on.set()
    await asking
    assert client.complete
    found = events(client.body.decode())
    assert {name for name, _ in found[:-1]} == {"rationale"}
    assert found[-1][0] == "error"
    assert found[-1][1]["error"]["code"] == {"too late": "generation_timeout", "dead": "engine_down"}[ends]


async def test_who_reads_slowly_holds_no_place_in_the_engine(serve: Serve) -> None:
    service = await serve(seconds=0.1, max_running_requests=1, cache=False)
    client = SlowClient(service)
    asking = asyncio.create_task(client.ask())
    await until(lambda: client.stuck)
    assert (await service.embed(input="another text"))["data"]
    client.goes_on.set()
    await asking
    assert [name for name, _ in events(client.body.decode())] == ["rationale"] * 4 + ["embedding", "done"]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """What ends only when the collector comes by does not end at once."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("takes", ["http.response.start", "http.response.body"])
async def test_who_leaves_while_he_reads_slowly_ends_the_writing_at_once(serve: Serve, takes: str) -> None:
    service = await serve(seconds=20)
    before = asyncio.all_tasks()
    client = SlowClient(service, takes)
    with no_garbage_collection():
        asking = asyncio.create_task(client.ask())
        await until(lambda: client.stuck)
        client.left.set()
        await until(lambda: service.engine.cancelled == 1, seconds=2)
        await asking
        await until(lambda: asyncio.all_tasks() <= before, seconds=2)
    assert service.metric("grace_running_requests") == 0
    assert service.metric("grace_cancelled_total") == 1


def admitted(
    prompter: Prompter, *, seconds: float, limits: Limits = LIMITS, generate_timeout_s: float = 5
) -> tuple[Admission, FakeEngine, Metrics]:
    engine, metrics = FakeEngine(prompter, seconds_per_text=seconds), Metrics()
    return Admission(engine, limits, metrics, generate_timeout_s=generate_timeout_s), engine, metrics


async def in_another_task(items: AsyncIterator[Item]) -> Item:
    async def following() -> Item:
        return await anext(items)

    return await asyncio.create_task(following())


@pytest.mark.parametrize(
    ("end", "error"), [(lambda _: None, GenerationTimeout), (Admission.fail, EngineDown)], ids=["timeout", "death"]
)
async def test_what_ends_the_writing_is_an_error_of_the_stream_whoever_reads_it(
    prompter: Prompter, end: Callable[[Admission], None], error: type[ApiError]
) -> None:
    """Its first piece is read by the task of the request, the others by the one that sends them."""
    limit_s = 3 if error is GenerationTimeout else 60
    admission, engine, metrics = admitted(prompter, seconds=8, generate_timeout_s=limit_s)
    async with items_of(admission, prompter.job("a text")) as items:
        assert await anext(items) == "<think>"
        end(admission)
        await until(lambda: metrics.registry.get_sample_value("grace_running_requests") == 0)
        with pytest.raises(error):
            await in_another_task(items)
    assert engine.cancelled == 1


async def test_a_stream_ends_with_the_representation_and_leaves_no_task(prompter: Prompter) -> None:
    admission, engine, metrics = admitted(prompter, seconds=0.05)
    before = asyncio.all_tasks()
    job = prompter.job("a text")
    *pieces, last = [item async for item in admission.stream(job)]
    expected = [item async for item in engine.stream(job)]
    assert pieces == expected[:-1]
    assert isinstance(last, Representation)
    for read in (0, 1, 4):
        async with aclosing(cast("Any", admission.stream(job))) as items:
            for _ in range(read):
                await anext(items)
    assert asyncio.all_tasks() == before
    assert metrics.registry.get_sample_value("grace_running_requests") == 0
