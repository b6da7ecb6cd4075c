"""The application: its routes, the concerns around them, and the stops of a text's way, in order.

route -> cache -> in-flight sharing -> admission -> engine
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import Lifespan

from grace.checkpoint import Checkpoint
from grace.engines.base import Engine
from grace.errors import GraceError
from grace.prompt import Prompter
from grace_server import logs
from grace_server.admission import Admission
from grace_server.audit.signing import Signer
from grace_server.cache import Cache
from grace_server.engine import MakeEngine, Replicated, count_of, identity, load_checkpoint, make_engine
from grace_server.errors import ApiError, problems, respond, translate
from grace_server.house import House, served_name
from grace_server.index import routes as index
from grace_server.index.edges import Edges
from grace_server.index.lifecycle import open_indexes
from grace_server.inflight import InFlight
from grace_server.lag import Lag
from grace_server.life import Life
from grace_server.metrics import Metrics
from grace_server.middleware.access_log import AccessLog
from grace_server.middleware.auth import Auth
from grace_server.middleware.body import Body
from grace_server.middleware.departure import Departure
from grace_server.middleware.gate import Gate
from grace_server.middleware.request_id import RequestId
from grace_server.middleware.trace import Trace
from grace_server.places import Limits
from grace_server.routes import cohere, docs, embed, explain, info, openai, playground, probes, tei
from grace_server.settings import Settings
from grace_server.stop import Front
from grace_server.tracing import Tracing

_OPEN_WHILE_CLOSED = (*probes.PATHS, *playground.PATHS, "/metrics", "/openapi.json", docs.PATH)
_OPEN_WITHOUT_KEY = (*probes.PATHS, *playground.PATHS)
_SILENT = (*probes.PATHS, "/metrics")  # asked every few seconds by those who watch: not traced
_CROWD = 64  # requests; fewer inside can always be read, whatever makes the event loop late
_WATCH_S = 0.2  # how often the engine is asked whether it lives

# Made once: a second of schemas, which every service of a process shares.
_ROUTES = APIRouter(responses=problems(400, 401, 408, 413, 415, 422, 429, 500, 503))
for _part in (embed, explain, openai, cohere, tei, index, probes, info, docs, playground):
    _ROUTES.include_router(_part.router)


class _Service(FastAPI):
    """FastAPI's application, with the routes and the document that all services have."""

    def __init__(self, lifespan: Lifespan[FastAPI] | None = None) -> None:
        super().__init__(
            title="GRACE",
            summary="Embeddings that explain themselves",
            lifespan=lifespan,
            docs_url=None,
            redoc_url=None,
        )
        self.router.routes += _ROUTES.routes

    def openapi(self) -> dict[str, Any]:
        return _document()


@cache
def _document() -> dict[str, Any]:
    return FastAPI.openapi(_Service())


def create_app(
    settings: Settings,
    *,
    engine: Engine | None = None,
    checkpoint: Checkpoint | None = None,
    tracing: Tracing | None = None,
    make_engine: MakeEngine = make_engine,
) -> FastAPI:
    """The service, as an ASGI application. The model is loaded when it starts, in the background.

    Tests give an `engine`, a `checkpoint` and a `tracing` of their own; Ray Serve has its own way to make an engine.
    """
    if settings.tracing:
        tracing = tracing or Tracing()
    metrics = Metrics()
    life, lag = Life(metrics), Lag()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(_live(app, settings, engine, checkpoint, make_engine)),
            asyncio.create_task(lag.follow()),
        ]
        try:
            yield
        finally:
            life.drain()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app = _Service(lifespan)
    app.state.settings, app.state.metrics, app.state.life = settings, metrics, life
    docs.mount_assets(app)
    for kind in (ApiError, GraceError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)

    # The last one added is the first one met.
    app.add_middleware(Departure)
    app.add_middleware(Body, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s, metrics=metrics)
    app.add_middleware(
        Gate, life=life, lag=lag, crowded=lambda: _crowded(app), always_open=_always_open, metrics=metrics
    )
    app.add_middleware(Auth, keys=settings.api_keys, open_paths=_OPEN_WITHOUT_KEY, metrics=metrics)
    if tracing is not None:
        app.add_middleware(Trace, tracing=tracing, silent=_SILENT)
    app.add_middleware(AccessLog, metrics=metrics, log_texts=settings.log_texts)
    if settings.cors_origins:
        # Outside of all that may refuse or fail: pages must be able to read why, and browsers ask first without a key.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    app.add_middleware(RequestId)
    metrics.expect_routes(sorted(app.openapi()["paths"]))
    return app


async def _live(
    app: FastAPI,
    settings: Settings,
    engine: Engine | None,
    given: Checkpoint | None,
    make_engine: MakeEngine,
) -> None:
    """Load, open the doors, watch the engine until the end; close in reverse."""
    life: Life = app.state.life
    logs.service.info("loading", extra={"model": settings.model, "engine": settings.engine})
    try:
        checkpoint = given
        if checkpoint is None:
            checkpoint = await asyncio.to_thread(load_checkpoint, settings)
        prompter = await asyncio.to_thread(Prompter, checkpoint)
        running = engine or make_engine(settings, checkpoint, prompter)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(running.close)
            await running.start()
            await _open(app, settings, running, checkpoint, prompter, stack)
            life.ready(lambda: running.dead)
            logs.service.info("ready", extra={"model": served_name(settings), "fingerprint": checkpoint.fingerprint})
            while not running.dead:  # noqa: ASYNC110 - an engine has a property for its death, and no event
                await asyncio.sleep(_WATCH_S)
            life.end("dead")
            app.state.house.admission.fail()
            logs.service.error("the engine died")
    except (GraceError, ApiError) as error:
        logs.service.error("the model cannot be served", extra={"error": str(error)})
        life.end("failed")
    except Exception:  # noqa: BLE001 - whatever a model's loader raises, the process must not stay up without a model
        logs.service.exception("the model could not be loaded")
        life.end("failed")


async def _open(
    app: FastAPI,
    settings: Settings,
    engine: Engine,
    checkpoint: Checkpoint,
    prompter: Prompter,
    stack: AsyncExitStack,
) -> None:
    """Put up the stops of a text's way, last one first."""
    metrics: Metrics = app.state.metrics
    signer = Signer.load(settings.audit_key) if settings.audit_key else None
    admission = Admission(
        engine,
        _limits(settings),
        metrics,
        generate_timeout_s=settings.generate_timeout_s,
        engines=count_of(engine),
    )
    in_flight = InFlight(admission, metrics, check=admission.places.check)
    front: Front = in_flight
    if settings.cache:
        cache = Cache(
            in_flight,
            metrics,
            folder=settings.data_dir / "cache",
            identity=identity(settings, checkpoint, replicated=isinstance(engine, Replicated)),
            max_mib=settings.cache_max_mib,
        )
        stack.push_async_callback(cache.close)
        await cache.open()
        front = cache
    created = int((checkpoint.folder / "config.json").stat().st_mtime)  # once: the folder may go, the model stays
    app.state.house = House(settings, metrics, checkpoint, prompter, front, admission, created, signer)
    app.state.represent, app.state.prompter, app.state.checkpoint = front.represent, prompter, checkpoint
    app.state.engine = engine
    metrics.model.labels(served_name(settings), checkpoint.fingerprint).set(1)
    app.state.indexes = await stack.enter_async_context(
        open_indexes(
            settings.data_dir,
            front.represent,
            prompter,
            checkpoint,
            edges=Edges.of(settings),
            max_input_chars=settings.max_input_chars,
            represent_all=front.represent_all,
        )
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        running_requests=settings.max_running_requests,
        running_tokens=settings.max_running_tokens,
        queued_requests=settings.max_queued_requests,
        queued_tokens=settings.max_queued_tokens,
        queue_timeout_s=settings.queue_timeout_s,
        deadline_s=settings.deadline_s,
        # Inside the engine nobody overtakes: it never holds more than half a step, or one text, of background work.
        background_requests=max(1, settings.max_num_seqs // 2) if settings.engine == "vllm" else 1,
    )


def _crowded(app: FastAPI) -> bool:
    """Whether there are more requests than the engine can take, so that some may be refused for the others' sake."""
    house: House | None = getattr(app.state, "house", None)
    if house is not None and house.admission.places.refusing:
        return True
    crowd = max(_CROWD, app.state.settings.max_running_requests)
    return bool(app.state.life.count >= crowd)


def _always_open(path: str) -> bool:
    return path in _OPEN_WHILE_CLOSED or path.startswith(docs.ASSETS)


async def _answer(request: Request, error: Exception) -> Response:
    record = logs.current.get()
    told = translate(error, record.request_id if record else "")
    if record:
        record.error = told.code
    if told.status == 500:
        logs.failure(error, record.request_id if record else "", log_texts=request.app.state.settings.log_texts)
    if isinstance(error, HTTPException):
        return respond(told, headers=dict(error.headers or {}))
    return respond(told)
