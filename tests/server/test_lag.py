"""Requests that come faster than they can be read are refused unread; a pause of the process is not that."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest
from fastapi import FastAPI, Request

from grace_server.lag import Lag
from grace_server.life import Life
from grace_server.metrics import Metrics
from grace_server.middleware.gate import Gate


def noted(*late_s: float) -> Lag:
    lag = Lag()
    for late in late_s:
        lag.note(late)
    return lag


def test_nothing_is_refused_while_the_loop_is_on_time_or_after_one_long_pause() -> None:
    assert noted(*[0.002] * 500).share == 0
    assert noted(*[0.002] * 50, 30.0, *[0.002] * 3).share == 0


def test_lasting_lateness_is_refused_the_more_the_later_and_forgotten_when_it_is_over() -> None:
    shares = [noted(*[late] * 400).share for late in (0.01, 0.03, 0.04, 0.05, 0.2)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[2] == pytest.approx(0.5, abs=0.01)
    assert shares[-1] == 1
    assert noted(*[0.2] * 400, *[0.0] * 100).share == 0


def test_a_loop_that_computes_most_of_the_time_is_relieved_though_it_is_on_time() -> None:
    """On a CPU the engine wants the same cores."""
    shares = []
    for busy in (0.2, 0.45, 0.9):
        lag = Lag()
        for _ in range(400):
            lag.note(0.001, busy)
        shares.append(lag.share)
    assert shares == [0, pytest.approx(0.5, abs=0.01), 1]


def test_the_share_is_kept_evenly() -> None:
    lag = noted(*[0.04] * 400)
    refused = [lag.refuses() for _ in range(100)]
    assert sum(refused) == pytest.approx(50, abs=2)
    assert all(any(refused[i : i + 3]) for i in range(0, 99, 3))


async def test_it_sees_a_loop_that_is_kept_busy() -> None:
    lag = Lag()
    following = asyncio.create_task(lag.follow())
    loop = asyncio.get_running_loop()
    end = loop.time() + 3
    while lag.share < 1 and loop.time() < end:
        busy_until = loop.time() + 0.08
        while loop.time() < busy_until:
            pass
        await asyncio.sleep(0)
    assert lag.share == 1
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await following


@pytest.mark.parametrize(("crowded", "late_s", "status"), [(True, 0.2, 429), (False, 0.2, 200), (True, 0.0, 200)])
async def test_a_refused_request_is_not_read_and_says_when_to_come_again(
    crowded: bool, late_s: float, status: int
) -> None:
    read = False
    app = FastAPI()

    @app.post("/embed")
    async def embed(request: Request) -> str:
        nonlocal read
        read = bool(await request.body())
        return "here"

    @app.get("/readyz")
    async def probe() -> str:
        return "ready"

    metrics = Metrics()
    life = Life(metrics)
    life.ready(lambda: False)
    lag = noted(*[late_s] * 400)
    gate = Gate(
        app,
        life=life,
        lag=lag,
        crowded=lambda: crowded,
        always_open=lambda path: path == "/readyz",
        metrics=metrics,
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://test") as client:
        reply = await client.post("/embed", json={"input": "x"})
        assert reply.status_code == status
        assert read == (status == 200)
        if status == 429:
            assert reply.headers["retry-after"] == "2"
            assert reply.json()["error"]["code"] == "queue_full"
            assert metrics.registry.get_sample_value("grace_rejections_total", {"reason": "queue_full"}) == 1
        assert (await client.get("/readyz")).status_code == 200, "probes are answered all the same"
