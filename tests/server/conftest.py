"""A service around the fake engine: in process through ASGI, or on a real port where sockets matter."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from grace.checkpoint import Checkpoint
from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_server import cli
from grace_server.app import create_app
from grace_server.settings import Settings
from grace_server.tracing import Tracing
from tests.support.models import make_model


@dataclass
class Service:
    """What a test talks to, and what it may look at behind it."""

    app: FastAPI
    engine: FakeEngine
    settings: Settings
    client: httpx.AsyncClient
    url: str = ""
    done: asyncio.Task[int] | None = None  # of a live one: its exit code

    async def embed(self, status: int = 200, **body: Any) -> dict[str, Any]:
        reply = await self.client.post("/embed", json=body)
        assert reply.status_code == status, reply.text
        return dict(reply.json())

    def metric(self, name: str, **labels: str) -> float:
        return self.app.state.metrics.registry.get_sample_value(name, labels) or 0.0


Serve = Callable[..., Awaitable[Service]]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GRACE_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen2")


@pytest.fixture(scope="session")
def checkpoint(model_folder: Path) -> Checkpoint:
    return Checkpoint.load(model_folder)


@pytest.fixture(scope="session")
def prompter(checkpoint: Checkpoint) -> Prompter:
    return Prompter(checkpoint)


@pytest.fixture
async def serve(checkpoint: Checkpoint, prompter: Prompter, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a service, in process unless `live`. Starting another one is a restart: it finds the same data folder."""
    async with AsyncExitStack() as stack:

        async def start(
            *, seconds: float = 0.0, live: bool = False, tracing: Tracing | None = None, **settings: Any
        ) -> Service:
            await stack.aclose()
            chosen = Settings(**{"data_dir": tmp_path / "data", "model": str(checkpoint.folder), "port": 0, **settings})
            engine = FakeEngine(prompter, seconds_per_text=seconds)
            app = create_app(chosen, engine=engine, checkpoint=checkpoint, tracing=tracing)
            opened = _live(app, chosen, engine) if live else _in_process(app, chosen, engine)
            return await stack.enter_async_context(opened)

        yield start


@asynccontextmanager
async def _in_process(app: FastAPI, settings: Settings, engine: FakeEngine) -> AsyncIterator[Service]:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://grace") as client,
    ):
        await until(lambda: app.state.life.phase == "ready")
        yield Service(app, engine, settings, client)


@asynccontextmanager
async def _live(app: FastAPI, settings: Settings, engine: FakeEngine) -> AsyncIterator[Service]:
    listener = cli.listen(settings)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    done = asyncio.create_task(cli.serve(app, settings, listener))
    await until(lambda: app.state.life.phase == "ready")
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        yield Service(app, engine, settings, client, url, done)
    app.state.life.fatal.set()
    await done


async def until(true: Callable[[], bool], *, seconds: float = 10.0) -> None:
    """Wait for something to become true; fail the test if it does not."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
