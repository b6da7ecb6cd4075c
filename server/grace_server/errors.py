"""What goes wrong on the wire: one envelope, and the only table from an error to a status.

    {"error": {"message", "type", "param", "code"}}

Errors of the service derive from `ApiError` and carry their own row; errors of `grace`, of the framework and of pydantic
are given theirs in `translate`. Anything else is a 500, which says the request id and nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from grace.errors import EngineDead, EngineError, GraceError, InputTooLong, InvalidInput


class ApiError(Exception):
    """An answer other than the one hoped for. Subclasses set the row; `param` names the field at fault."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after  # seconds


class Malformed(ApiError):
    """The body is not JSON, or not of the kind the route takes."""

    status, type, code = 400, "invalid_request_error", "malformed_body"


class Unauthorized(ApiError):
    """No key, or a wrong one."""

    status, type, code = 401, "authentication_error", "invalid_api_key"


class NotFound(ApiError):
    """There is nothing of that name."""

    status, type, code = 404, "not_found_error", "not_found"


class ModelNotFound(NotFound):
    """The request names a model that is not served here."""

    code = "model_not_found"


class TooLarge(ApiError):
    """Over a limit that waiting does not change; the message names it."""

    status, type, code = 413, "invalid_request_error", "too_large"


class InvalidValue(ApiError):
    """A field holds a value that cannot be served."""

    status, type, code = 422, "invalid_request_error", "invalid_value"


class Overloaded(ApiError):
    """No room now: try again after `retry_after` seconds."""

    status, type, code = 429, "overloaded_error", "queue_full"


class QueueTimeout(Overloaded):
    """Waited for a place as long as the settings allow."""

    code = "queue_timeout"


class Unavailable(ApiError):
    """The service cannot answer now; a subclass says why."""

    status, type, code = 503, "unavailable_error", "unavailable"


class Loading(Unavailable):
    """The model is being loaded."""

    code = "loading"


class Draining(Unavailable):
    """The process is about to stop and takes nothing new."""

    code = "draining"


class EngineDown(Unavailable):
    """The engine died; the process is about to exit."""

    code = "engine_down"


class GenerationTimeout(Unavailable):
    """The engine took longer for one text than the settings allow."""

    code = "generation_timeout"


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The envelope of every error, on every route."""

    error: ErrorDetail
