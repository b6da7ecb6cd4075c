"""Starting, draining, dying: what an orchestrator sees."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from grace.checkpoint import CheckpointConfig
from grace.prompt import Prompter
from grace.representation import Job
from grace_server import cli
from grace_server.app import create_app
from grace_server.settings import Settings
from tests.server.conftest import Serve, until
from tests.support.models import make_model
from tests.support.serving import Service, started

SECRET = "Zanzibar marmalade quartet."


async def test_the_engines_death_is_503_for_all_red_and_a_code_of_its_own(serve: Serve) -> None:
    service = await serve(seconds=30, live=True, max_running_requests=2)
    waiting = [asyncio.create_task(service.client.post("/embed", json={"input": f"text {i}"})) for i in range(4)]
    await until(lambda: service.metric("grace_queued_requests") == 2)
    service.engine.kill()
    for reply in await asyncio.gather(*waiting):
        assert reply.status_code == 503
        assert reply.json()["error"]["code"] == "engine_down"
    assert service.app.state.life.closed() is not None
    assert service.done is not None
    assert await service.done == 4
    assert service.metric("grace_ready") == 0


async def test_a_text_that_is_still_being_read_at_the_engines_death_is_503(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then the cache is closed, and what lies behind it answers."""
    job, begun = Prompter.job, threading.Event()

    def slow(self: Prompter, text: str, **options: Any) -> Job:
        begun.set()
        time.sleep(1)
        return job(self, text, **options)

    monkeypatch.setattr(Prompter, "job", slow)
    service = await serve(live=True)
    asked = asyncio.create_task(service.client.post("/embed", json={"input": "The river rises. " * 500}))
    await until(begun.is_set)
    service.engine.kill()
    async with asyncio.timeout(10):
        reply = await asked
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "engine_down"


async def test_after_the_death_readiness_is_red_while_the_process_still_answers(serve: Serve) -> None:
    service = await serve()
    service.engine.kill()
    await until(lambda: service.app.state.life.phase == "dead")
    for path in ("/readyz", "/health"):
        reply = await service.client.get(path)
        assert reply.status_code == 503
        assert reply.headers["retry-after"]
    assert (await service.client.get("/livez")).status_code == 200
    assert (await service.client.post("/embed", json={"input": "x"})).status_code == 503


@asynccontextmanager
async def process(folder: Path, *flags: str, **variables: str) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """`grace-serve` with a real engine, its data and log in a folder, and a client of it."""
    flags = ("--engine=transformers", "--port=0", f"--data-dir={folder}/data", *flags)
    with started(folder / "log", flags, {"OMP_NUM_THREADS": "1", **variables}) as child:
        async with httpx.AsyncClient(base_url=await child.is_ready(), timeout=60) as client:
            yield child, client


async def inside(client: httpx.AsyncClient) -> None:
    """Wait until a request has reached the engine."""
    async with asyncio.timeout(20):
        while "grace_running_requests 1.0" not in (await client.get("/metrics")).text:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.02)


async def test_sigterm_lets_running_requests_finish_and_takes_no_new_ones(tmp_path: Path) -> None:
    # Long enough to be seen running: 1500 tokens take a tiny model some seconds.
    folder = make_model(
        tmp_path / "m",
        context=2048,
        stop_bias=1e-6,
        config=CheckpointConfig(max_input_tokens=256, max_rationale_tokens=1500),
    )
    async with process(tmp_path, f"--model={folder}", GRACE_PROT="1") as (child, client):
        assert (await client.get("/readyz")).status_code == 200
        body = {"input": SECRET, "max_rationale_tokens": 1500}
        running = asyncio.create_task(client.post("/embed", json=body))
        await inside(client)
        child.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        assert not running.done()
        for path in ("/readyz", "/v1/models"):
            refused = await client.get(path)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "draining"
            assert refused.headers["retry-after"]
        assert (await client.get("/livez")).status_code == 200
        reply = await running
        assert reply.status_code == 200
        assert await child.ended() == 0
        logged = child.log.read_text()
        lines = [json.loads(line) for line in logged.splitlines()]
        assert any(line.get("variable") == "GRACE_PROT" for line in lines)
        [done] = [line for line in lines if line.get("route") == "/embed"]
        assert done["status"] == 200
        assert done["request_id"] == reply.headers["x-request-id"]
        assert done["completion_tokens"] == reply.json()["usage"]["completion_tokens"]
        assert done["generate_s"] > 0
        assert "Zanzibar" not in logged


async def test_engines_are_started_deaf_to_ctrl_c(serve: Serve) -> None:
    await serve(live=True)
    blocked = await asyncio.to_thread(signal.pthread_sigmask, signal.SIG_BLOCK, set())
    assert signal.SIGINT in blocked


async def test_a_second_sigterm_forces(tmp_path: Path) -> None:
    folder = make_model(
        tmp_path / "m",
        context=8192,
        stop_bias=1e-6,
        config=CheckpointConfig(max_input_tokens=256, max_rationale_tokens=7000),
    )
    async with process(tmp_path, f"--model={folder}") as (child, client):
        body = {"input": "a text", "max_rationale_tokens": 7000}
        running = asyncio.create_task(client.post("/embed", json=body))
        await inside(client)
        child.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert child.returncode is None
        child.send_signal(signal.SIGTERM)
        await asyncio.to_thread(child.wait, seconds=8)
        running.cancel()


async def test_a_model_that_is_none_ends_the_process_with_its_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(model=str(tmp_path), data_dir=tmp_path, port=0)
    async with asyncio.timeout(20):
        assert await cli.serve(create_app(settings), settings, cli.listen(settings)) == 3
    [told] = [record for record in caplog.records if record.message == "the model cannot be served"]
    assert "config.json" in told.__dict__["error"]


def test_a_taken_port_ends_the_process_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(model=str(tmp_path), data_dir=tmp_path, port=taken.getsockname()[1])
        assert cli.run(create_app(settings), settings) == 5
    assert f"cannot listen on 127.0.0.1:{settings.port}" in capsys.readouterr().err


@pytest.mark.parametrize("log_texts", [False, True])
async def test_texts_are_logged_only_when_switched_on(
    serve: Serve, caplog: pytest.LogCaptureFixture, log_texts: bool
) -> None:
    service = await serve(log_texts=log_texts)
    with caplog.at_level("DEBUG"):
        reply = await service.embed(input=SECRET, explain=True)
        await service.embed(422, input=SECRET, dimensions=10_000)
        await service.embed(422, input=SECRET, role=SECRET)
        await service.embed(422, input=[SECRET, 1])
        await service.client.post("/embed", json={"input": SECRET, "stream": True})
        await service.client.post("/v1/embeddings", json={"input": SECRET, "model": "tiny"})
    logged = json.dumps([record.__dict__ for record in caplog.records], default=str)
    assert ("Zanzibar" in logged) == log_texts
    assert (reply["data"][0]["rationale"]["understanding"] in logged) == log_texts


async def test_what_is_loaded_at_the_start_is_out_of_the_garbage_collectors_way(tmp_path: Path) -> None:
    """Else each of its full rounds stops the event loop for half a second."""
    model = make_model(tmp_path / "model", config=CheckpointConfig())
    settings = Settings(model=str(model), engine="transformers", data_dir=tmp_path / "data", port=0)
    gc.unfreeze()
    app = create_app(settings)
    serving = asyncio.create_task(cli.serve(app, settings, cli.listen(settings)))
    try:
        await until(lambda: gc.get_freeze_count() > 50_000)
        assert app.state.life.phase == "ready"
    finally:
        gc.unfreeze()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await serving == 0
