"""JSON lines on standard error, and the record that a request collects for its line.

Input texts and rationales are in no line unless `log_texts` is on; tracebacks are therefore logged as places, without
the exceptions' own words, which like to quote their arguments.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from grace.errors import GraceError

access = logging.getLogger("grace.access")
service = logging.getLogger("grace.server")


@dataclass(slots=True)
class Record:
    """What one request's log line will say besides route, status and time."""

    request_id: str = ""
    trace_id: str = ""  # only with `tracing`
    span_id: str = ""
    inputs: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: int = 0
    truncated: int = 0
    queue_s: float = 0.0  # the longest of its texts
    generate_s: float = 0.0  # the longest of its texts
    error: str = ""  # the envelope's code
    texts: list[dict[str, Any]] = field(default_factory=list)  # only with `log_texts`


current: ContextVar[Record | None] = ContextVar("grace_request_record", default=None)


class _OfRequest(logging.Filter):
    """Puts the ids of the request that runs onto whatever is logged meanwhile, by whomever."""

    def filter(self, record: logging.LogRecord) -> bool:
        if (request := current.get()) is not None:
            for name in ("request_id", "trace_id", "span_id"):
                if (value := getattr(request, name)) and not hasattr(record, name):
                    setattr(record, name, value)
        return True


def configure(level: str) -> None:
    """Send everything that is logged in this process to standard error as JSON lines."""
    logging.basicConfig(handlers=[json_lines(sys.stderr)], level=level.upper(), force=True)
    logging.getLogger("httpx").setLevel("WARNING")  # the hub client logs every file it looks for


def json_lines(stream: TextIO) -> logging.Handler:
    """Writes records to a stream, one JSON object a line."""
    handler = logging.StreamHandler(stream)
    handler.addFilter(_OfRequest())
    handler.setFormatter(
        JsonFormatter(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    return handler


def failure(error: BaseException, request_id: str, *, log_texts: bool) -> None:
    """Log what ends as a 500: its type, the places it passed, and the words of `grace`'s own, which quote no text."""
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    extra: dict[str, Any] = {"request_id": request_id, "error": type(error).__qualname__, "places": places}
    if log_texts or isinstance(error, GraceError):
        extra["words"] = str(error)
    service.error("internal error", extra=extra)
