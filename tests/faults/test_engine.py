"""The engine's process dies, hangs, or has no memory: whoever waits is told, and the service ends with its code."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from grace.checkpoint import Checkpoint, CheckpointConfig
from grace.engines.vllm import VllmEngine, VllmOptions
from grace.engines.watchdog import TICK_S, silence
from grace.errors import EngineError
from grace.prompt import Prompter
from grace_server import cli
from grace_server.app import create_app
from grace_server.settings import Settings
from tests.faults.conftest import command
from tests.server.conftest import until
from tests.support import hanging_worker
from tests.support.models import make_model
from tests.support.processes import command_line


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes for some seconds, so that something can happen meanwhile."""
    config = CheckpointConfig(max_input_tokens=256, max_rationale_tokens=3000)
    return make_model(tmp_path_factory.mktemp("talkative"), context=4096, stop_bias=1e-6, config=config)


@dataclass
class Running:
    app: Any
    client: httpx.AsyncClient
    done: asyncio.Task[int]
    engine: psutil.Process


Run = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def run(talkative: Path, tmp_path: Path, quick_starts: None) -> Run:
    """vLLM behind a real socket, as `grace-serve` has it."""

    @asynccontextmanager
    async def running(**chosen: Any) -> AsyncIterator[Running]:
        settings = Settings(
            **{
                "model": str(talkative),
                "data_dir": tmp_path / "data",
                "port": 0,
                "kv_cache_gib": 0.2,
                "max_running_requests": 2,
                "engine_metrics": False,
                **chosen,
            }
        )
        app, listener = create_app(settings), cli.listen(settings)
        others = multiprocessing.active_children()
        done = asyncio.create_task(cli.serve(app, settings, listener))
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            await until(lambda: app.state.life.phase != "loading", seconds=180)
            [engine] = [psutil.Process(p.pid) for p in multiprocessing.active_children() if p not in others]
            async with httpx.AsyncClient(base_url=address, timeout=60) as client:
                yield Running(app, client, done, engine)
        finally:
            app.state.life.fatal.set()
            async with asyncio.timeout(30):
                await done

    return running


@pytest.mark.parametrize("befallen", ["killed", "in a step that never returns"])
async def test_a_dead_or_hung_engine_is_503_for_all_red_and_code_4(
    run: Run, befallen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang, settings = tmp_path / "hang", {}
    if befallen != "killed":
        monkeypatch.setenv(hanging_worker.FILE, str(hang))
        worker = f"{hanging_worker.__name__}.{hanging_worker.HangingWorker.__name__}"
        settings = {"engine_timeout_s": 1.0, "engine_args": {"worker_cls": worker}}
    async with run(**settings) as running:
        assert (await running.client.post("/embed", json={"input": "x", "mode": "direct"})).status_code == 200
        waiting = [
            asyncio.create_task(running.client.post("/embed", json={"input": f"text {i}", "stream": i == 3}))
            for i in range(4)
        ]
        admission = running.app.state.house.admission
        await until(lambda: (admission.places._running, admission.places._queued) == (2, 2))
        if befallen == "killed":
            running.engine.kill()
        else:
            hang.touch()
        async with asyncio.timeout(20):
            replies = await asyncio.gather(*waiting)
            for reply in replies:
                if reply.headers["content-type"].startswith("text/event-stream"):  # its status had gone out already
                    assert "engine_down" in reply.text
                else:
                    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_down")
                    assert reply.headers["retry-after"]
            assert running.app.state.life.closed() is not None
            assert await running.done == 4
        assert not running.engine.is_running() or running.engine.status() == psutil.STATUS_ZOMBIE


async def test_on_a_cpu_requests_are_read_before_the_engine_runs(run: Run) -> None:
    async with run(engine_niceness=3) as running:
        threads = {os.getpriority(os.PRIO_PROCESS, thread.id) for thread in running.engine.threads()}
        assert threads == {os.getpriority(os.PRIO_PROCESS, 0) + 3}


@pytest.mark.slow
async def test_the_engine_goes_with_a_service_that_was_killed(talkative: Path, tmp_path: Path) -> None:
    """While it writes, and would go on for seconds."""
    folder = f"--data-dir={tmp_path}"
    command = [sys.executable, "-m", "grace_server.cli", f"--model={talkative}", folder, "--kv-cache-gib=0.2"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    others: list[psutil.Process] = []
    service = psutil.Popen([*command, f"--port={port}"], env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            async with asyncio.timeout(300):
                while not await is_ready(client):  # noqa: ASYNC110 - over HTTP
                    await asyncio.sleep(0.2)
            writing = asyncio.create_task(client.post("/embed", json={"input": "text"}))
            await asyncio.sleep(0.5)
            others = service.children(recursive=True)
            assert others
            service.kill()
            with pytest.raises(httpx.TransportError):
                await writing
        _, left = await asyncio.to_thread(psutil.wait_procs, others, timeout=20)
        assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []
    finally:
        for one in (service, *others):
            if one.is_running():
                one.kill()
        service.wait()


@pytest.mark.slow
async def test_sigterm_ends_a_service_whose_engine_hangs_while_it_loads(talkative: Path, tmp_path: Path) -> None:
    async with command(f"--model={talkative}", f"--data-dir={tmp_path / 'data'}", log=tmp_path / "log") as service:

        def engines() -> list[psutil.Process]:
            return [one for one in psutil.Process(service.pid).children() if "spawn_main" in command_line(one)]

        await until(lambda: bool(engines()), seconds=180)
        [engine] = engines()
        engine.suspend()
        await asyncio.sleep(1)  # the service waits for it
        service.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await service.wait() == 0
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


async def is_ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


def test_a_cache_too_small_for_any_text_is_refused_at_the_start_with_what_it_takes(talkative: Path) -> None:
    checkpoint = Checkpoint.load(talkative)
    for options, words in (
        (VllmOptions(kv_cache_gib=0.0005), r"a text of 4096 tokens takes 0.00\d+ GiB .* 0.0005 \(kv_cache_gib\)"),
        (VllmOptions(kv_cache_blocks=3), r"4096 tokens takes \d+ blocks .* there are 3 \(kv_cache_blocks\)"),
    ):
        engine = VllmEngine(checkpoint, Prompter(checkpoint), options)
        with pytest.raises(EngineError, match=words):
            asyncio.run(engine.start())


async def test_memory_is_given_back_again_and_again_until_the_engine_dies(
    talkative: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def collective_rpc(method: str) -> None:
        asked.append(method)
        if len(asked) == 3:
            raise EngineError("gone")

    monkeypatch.setattr("grace.engines.vllm._TIDY_S", 0.0)
    checkpoint = Checkpoint.load(talkative)
    engine = VllmEngine(checkpoint, Prompter(checkpoint))
    monkeypatch.setattr(engine, "_llm", SimpleNamespace(collective_rpc=collective_rpc))
    async with asyncio.timeout(10):
        await engine._tidy()
    assert asked == ["grace_give_back"] * 3


async def test_an_answer_of_any_kind_keeps_the_watchdog_quiet() -> None:
    asked = 0

    async def answer() -> None:
        nonlocal asked
        asked += 1
        if asked % 2:
            raise RuntimeError("an error is an answer")

    watching = asyncio.create_task(silence(answer, limit_s=0.1))
    await until(lambda: asked >= 4)
    assert not watching.done()
    watching.cancel()


async def test_time_in_which_this_process_was_stopped_itself_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    answer: asyncio.Future[None] = loop.create_future()

    async def ask() -> None:
        asked.set()
        await answer

    watching = asyncio.create_task(silence(ask, limit_s=10 * TICK_S))
    await asked.wait()
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + 3600)  # an hour asleep
    await asyncio.sleep(4 * TICK_S)
    assert not watching.done()
    answer.set_result(None)
    watching.cancel()


async def test_silence_is_told_after_its_limit() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def ask() -> None:
        await never

    begin = asyncio.get_running_loop().time()
    await silence(ask, limit_s=1.0)
    assert 1.0 <= asyncio.get_running_loop().time() - begin < 5
