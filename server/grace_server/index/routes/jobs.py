"""`/jobs/{id}`: progress by asking, progress by listening, cancelling."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from grace_server.errors import problems
from grace_server.index.errors import JobNotFound
from grace_server.index.indexes import Indexes
from grace_server.index.routes.shapes import JobOut, indexes_of, job_out, plain

router = APIRouter(tags=["jobs"])

HEARTBEAT_S = 10.0  # a comment in the stream, so that proxies do not take silence for death
LEAST_INTERVAL_S = 0.1  # between two events


@router.get("/jobs/{id}", responses=problems(404))
async def get_job(request: Request, id: str) -> JobOut:
    """Progress of a job."""
    return await _progress(indexes_of(request), id)


@router.delete("/jobs/{id}", responses=problems(404))
async def cancel_job(request: Request, id: str) -> JobOut:
    """Stop a job. What is embedded stays; what is not is kept as `cancelled` until it is sent again."""
    return job_out(await indexes_of(request).cancel(id), None)


@router.get(
    "/jobs/{id}/events",
    response_class=StreamingResponse,
    responses={
        **problems(404),
        200: {"content": {"text/event-stream": {}}, "description": "events `progress`, then one `done`"},
    },
)
async def job_events(request: Request, id: str) -> StreamingResponse:
    """Progress of a job as server-sent events: `progress` at each step, `done` at the end."""
    indexes = indexes_of(request)
    seen, first = indexes.moves, await _progress(indexes, id)
    return StreamingResponse(
        _events(indexes, first, seen), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def _events(indexes: Indexes, job: JobOut, seen: int) -> AsyncIterator[str]:
    yield _event("progress", job)
    while job.finished_at is None:
        await indexes.progress(since=seen, timeout_s=HEARTBEAT_S)
        await asyncio.sleep(LEAST_INTERVAL_S)
        try:
            seen, now = indexes.moves, await _progress(indexes, job.id)
        except JobNotFound:  # its index was deleted
            return
        yield _event("progress", now) if now != job else ": still here\n\n"
        job = now
    yield _event("done", job)


async def _progress(indexes: Indexes, job: str) -> JobOut:
    found = await indexes.job(job)
    return job_out(found, await asyncio.to_thread(indexes.rate, job) if found.finished_at is None else None)


def _event(name: str, job: JobOut) -> str:
    return f"event: {name}\ndata: {json.dumps(plain(job))}\n\n"
