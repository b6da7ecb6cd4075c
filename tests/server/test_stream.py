"""Server-sent events: the rationale as it is written, then the vector."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.server.conftest import Serve, until


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
