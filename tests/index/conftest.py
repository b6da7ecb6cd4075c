"""A service around the index alone: the real routes, a fake engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from grace.checkpoint import Checkpoint
from grace.engines.fake import FakeEngine
from grace.errors import GraceError
from grace.prompt import Prompter
from grace.representation import Job, Representation
from grace_server.errors import ApiError, respond, translate
from grace_server.index.approximate import use_threads
from grace_server.index.edges import Edges
from grace_server.index.indexes import Indexes
from grace_server.index.lifecycle import open_indexes
from grace_server.index.model import Represent
from grace_server.index.routes import router
from grace_server.metrics import Metrics
from tests.conftest import ModelFolder
from tests.index.shell import Shell


@dataclass
class Service:
    """A running service, and what a test may look at."""

    http: httpx.AsyncClient
    indexes: Indexes
    engine: FakeEngine
    prompter: Prompter


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """FAISS's threads wait for each other by spinning: on a busy machine that costs minutes."""
    use_threads(1)


OpenService = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture(scope="session")
def prompter(model_folder: ModelFolder) -> Prompter:
    return Prompter(Checkpoint.load(model_folder()))


@pytest.fixture
def shell(tmp_path: Path, prompter: Prompter) -> Shell:
    """`grace-index` on a data folder of the test's own."""
    return Shell(tmp_path / "data", prompter)


@pytest.fixture
def open_service(tmp_path: Path, prompter: Prompter) -> OpenService:
    """Opens a service on a data folder of the test's own; opened again, it is a restart."""

    @asynccontextmanager
    async def opened(
        *,
        seconds_per_text: float = 0.0,
        checkpoint: Checkpoint = prompter.checkpoint,
        wrap: Callable[[Represent], Represent] = lambda represent: represent,
        edges: Edges | None = None,
        max_input_chars: int | None = None,
    ) -> AsyncIterator[Service]:
        engine = FakeEngine(prompter, seconds_per_text=seconds_per_text)
        app = FastAPI()
        app.include_router(router)
        for kind in (ApiError, GraceError, RequestValidationError):
            app.add_exception_handler(kind, _answer)

        async def represent(job: Job) -> Representation:
            return await engine.represent(job)

        opening = open_indexes(
            tmp_path, wrap(represent), prompter, checkpoint, edges=edges, max_input_chars=max_input_chars
        )
        async with opening as indexes:
            app.state.indexes, app.state.metrics = indexes, Metrics()
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as http:
                yield Service(http, indexes, engine, prompter)

    return opened


async def _answer(request: Request, error: Exception) -> Response:
    return respond(translate(error, "test"))
