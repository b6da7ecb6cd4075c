"""What the routes of search share: where the indexes are, and how rationales and jobs look on the wire."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from grace.representation import FinishReason, Rationale
from grace_server.errors import Loading
from grace_server.index.indexes import Indexes
from grace_server.index.jobs import IndexJob, JobState
from grace_server.request_body import RequestBody


class Strict(RequestBody):
    """A body in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


class RationaleOut(BaseModel):
    """What the model wrote about a text."""

    text: str = Field(description="as written, with its tags")
    thinking: str = Field(description="inside <think>")
    understanding: str = Field(description="after it")
    tokens: int
    finish_reason: FinishReason


class JobFailureOut(BaseModel):
    """A document that could not be embedded."""

    id: str
    reason: str


class JobOut(BaseModel):
    """Progress of a job: `total` = `done` + `failed` + `superseded` + `left`."""

    object: Literal["job"] = "job"
    id: str
    state: JobState
    total: int
    done: int
    failed: int
    superseded: int = Field(description="deleted, replaced or sent again before they were embedded")
    left: int
    rate: float | None = Field(description="documents per second of the last half minute")
    seconds_left: float | None = Field(description="at that rate")
    created_at: float = Field(description="seconds since 1970")
    finished_at: float | None
    failures: list[JobFailureOut] = Field(description="the first 1,000")


def indexes_of(request: Request) -> Indexes:
    """The indexes of the application.

    Raises:
        Loading: the model is not there yet.
    """
    indexes = getattr(request.app.state, "indexes", None)
    if not isinstance(indexes, Indexes):
        raise Loading("the indexes are being opened")
    return indexes


def rationale_out(rationale: Rationale | None) -> RationaleOut | None:
    """A rationale on the wire."""
    if rationale is None:
        return None
    return RationaleOut(
        text=rationale.text,
        thinking=rationale.thinking,
        understanding=rationale.understanding,
        tokens=rationale.tokens,
        finish_reason=rationale.finish_reason,
    )


def job_out(job: IndexJob, rate: float | None) -> JobOut:
    """A job on the wire."""
    running = job.finished_at is None
    return JobOut(
        id=job.id,
        state=job.state,
        total=job.total,
        done=job.done,
        failed=job.failed,
        superseded=job.superseded,
        left=job.left,
        rate=rate if running else None,
        seconds_left=job.left / rate if running and rate else None,
        created_at=job.created_at,
        finished_at=job.finished_at,
        failures=[JobFailureOut(id=f.id, reason=f.reason) for f in job.failures],
    )


def plain(value: BaseModel) -> dict[str, Any]:
    """A model as JSON values."""
    return value.model_dump(mode="json")
