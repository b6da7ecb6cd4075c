"""`/livez`: the process runs. `/readyz` and `/health`: it takes requests."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from grace_server.errors import problems
from grace_server.life import Life
from grace_server.routes.shapes import as_json

router = APIRouter(tags=["service"])

PATHS = ("/livez", "/readyz", "/health")


class Alive(BaseModel):
    """The process runs."""

    status: Literal["alive"]


class Ready(BaseModel):
    """The service takes requests."""

    status: Literal["ready"]


@router.get("/livez", summary="Does the process run?", response_model=Alive)
async def livez() -> Response:
    """Answers as long as the event loop turns, also while the model is loaded."""
    return as_json({"status": "alive"})


@router.get("/readyz", summary="Does it take requests?", response_model=Ready, responses=problems(503))
async def readyz(request: Request) -> Response:
    """503 while the model is loaded, while draining, and once the engine is dead."""
    return _ready(request)


@router.get("/health", summary="The same, under the name others use", response_model=Ready, responses=problems(503))
async def health(request: Request) -> Response:
    """As `/readyz`."""
    return _ready(request)


def _ready(request: Request) -> Response:
    life: Life = request.app.state.life
    if error := life.closed():
        raise error
    return as_json({"status": "ready"})
