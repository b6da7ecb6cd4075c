"""What goes wrong on the wire: one envelope, and the only table from an error to a status.

    {"error": {"message", "type", "param", "code"}}

Errors of the service derive from `ApiError` and carry their own row; those of `grace`, of the framework and of pydantic
are given theirs in `translate`. Anything else is a 500, which says the request id and nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from grace.errors import EngineDead, EngineError, InputTooLong, InvalidInput


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


class RequestTimeout(ApiError):
    """The client took too long to send its request."""

    status, type, code = 408, "invalid_request_error", "request_timeout"


class UnsupportedEncoding(ApiError):
    """The body is compressed: what it would unpack to is not for its sender to decide."""

    status, type, code = 415, "invalid_request_error", "unsupported_encoding"


class HeadersTooLarge(ApiError):
    """The request line and its headers are over the limit."""

    status, type, code = 431, "invalid_request_error", "headers_too_large"


class TooLarge(ApiError):
    """Over a limit that waiting does not change; the message names it."""

    status, type, code = 413, "invalid_request_error", "too_large"


class MethodNotAllowed(ApiError):
    """The path exists, the method does not."""

    status, type, code = 405, "invalid_request_error", "method_not_allowed"


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

    def __init__(self, message: str, *, param: str | None = None, retry_after: int | None = 5) -> None:
        super().__init__(message, param=param, retry_after=retry_after)


class Departed(ApiError):
    """The client left before the answer was ready. Nobody reads this one; the log and the metrics do."""

    status, type, code = 499, "client_error", "client_closed_request"


class EngineFailed(ApiError):
    """The engine could not answer this one job; the next may well succeed."""

    code = "engine_error"


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


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` entry of a route: the error statuses it can answer with, each in the envelope."""
    return {status: {"model": ErrorBody, "description": _DESCRIPTIONS[status]} for status in sorted(statuses)}


def translate(error: Exception, request_id: str) -> ApiError:
    """The row of any error: what a client is told about it. Texts of unknown errors are never passed on."""
    match error:
        case ApiError():
            return error
        case InputTooLong():
            return TooLarge(str(error), param=error.param)
        case InvalidInput():
            return InvalidValue(str(error), param=error.param)
        case EngineDead():
            return EngineDown("the engine died, this process is about to exit; another one may serve you")
        case EngineError():
            return EngineFailed(f"the engine could not answer, request {request_id}")
        case RequestValidationError():
            return _validation(error.errors())
        case HTTPException():
            return _http(error)
        case _:
            return ApiError(f"internal error, request {request_id}")


def renamed(error: ApiError | InvalidInput, param: str) -> ApiError | InvalidInput:
    """The error with the field at fault named as in this request; a message that begins with its name has it, too.

    A copy: requests that share a generation are handed the same error, and each has names of its own.
    """
    message, named = str(error), copy(error)
    if error.param and message.startswith(f"{error.param} "):
        message = param + message.removeprefix(error.param)
        named.args = (message,)
        if isinstance(named, ApiError):
            named.message = message
    named.param = param
    return named


def envelope(error: ApiError) -> dict[str, dict[str, str | None]]:
    """The body of an error."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def respond(error: ApiError, *, headers: dict[str, str] | None = None) -> Response:
    """The response of an error. Pure ASCII: names of a caller's fields may hold what UTF-8 cannot."""
    extra = dict(headers or {})
    if error.retry_after is not None:
        extra["retry-after"] = str(error.retry_after)
    if error.status == 401:
        extra["www-authenticate"] = "Bearer"
    return Response(json.dumps(envelope(error)), error.status, extra, "application/json")


_DESCRIPTIONS = {
    400: "The body is not JSON",
    401: "No valid API key",
    404: "Nothing of that name",
    405: "Not a method of this path",
    408: "The request came too slowly",
    409: "In conflict with what is there",
    413: "Over a limit, which the message names",
    415: "The body is compressed, which is not accepted",
    422: "A field is unknown or its value cannot be served; `param` names it",
    429: "No room now; `Retry-After` says when to come back",
    431: "The headers are over the limit, which the message names",
    500: "Internal error; the message holds the request id and nothing more",
    503: "Loading, draining, or the engine is down; `Retry-After` says when to come back",
}


def _http(error: HTTPException) -> ApiError:
    match error.status_code:
        case 404:
            return NotFound("there is nothing at this path")
        case 405:
            return MethodNotAllowed("this path does not take that method")
        case status if 400 <= status < 500:
            return Malformed("the body cannot be read as JSON")
        case _:
            return ApiError("internal error")


def _validation(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's complaints, in a sentence that does not repeat the value: it may be a caller's text."""
    # Of the arms of a union, the one that went deepest is the one that was meant.
    about = [error for error in errors if _path(error)[:1] == _path(errors[0])[:1]]
    first = max(about, key=lambda error: len(_path(error)))
    kind, place, path = first["type"], str(first["loc"][0]), _path(first)
    param = _spelt(path) or None
    if kind == "json_invalid":
        return Malformed(f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][1]}")
    if param is None and kind in ("model_attributes_type", "missing", "dict_type"):
        return Malformed("the body must be a JSON object, sent as content-type application/json")
    if kind == "extra_forbidden":
        return InvalidValue(f"unknown field {param!r}: this route does not take it", param=param)
    message = str(first["msg"]).removeprefix("Value error, ")
    return InvalidValue(f"{param or place}: {message[:1].lower()}{message[1:]}", param=param)


def _path(error: Any) -> list[str | int]:
    """The field of the request: pydantic's path without its first step (body, path) and the arms of unions."""
    steps = error["loc"][1:]
    unknown = len(steps) - 1 if error["type"] == "extra_forbidden" else None  # a field of any name, also of an arm's
    return [step for number, step in enumerate(steps) if number == unknown or not _is_branch(str(step))]


def _spelt(path: Sequence[str | int]) -> str:
    """A path as the rest of the service spells one: `documents[3].vector`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _is_branch(part: str) -> bool:
    """Whether a step of pydantic's path names an arm of a union rather than a field of the request."""
    return part in ("str", "int", "float", "bool") or part.endswith("]") or part.startswith("function-")
