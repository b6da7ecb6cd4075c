"""What can go wrong between here and the server.

GraceError
├── ConnectionFailed          no answer, or one that broke off
│   └── TimedOut              the time allowed is over
├── BadAnswer                 an answer, but not from a GRACE server, or from one that is too new or too old
└── ApiError                  the server's own error: status, type, code, param, request_id, retry_after_s
    ├── BadRequest            400, 405
    ├── AuthenticationFailed  401, 403
    ├── NotFound              404
    │   ├── IndexNotFound
    │   └── DocumentNotFound
    ├── Conflict              409
    ├── TooLarge              413
    ├── InvalidValue          422, `param` names the field
    ├── Overloaded            429
    ├── ServerFailed          500 and what else begins with 5
    └── Unavailable           503: loading, draining, or the engine is down
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any


class GraceError(Exception):
    """Anything this package raises for a reason outside of the calling program."""

    def __init__(self, message: str, *, request_id: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id  # the server's log has it too

    def __reduce__(self) -> tuple[Any, ...]:
        # As it stands: the usual way calls the class with the message alone, and some need more.
        return type(self).__new__, (type(self), *self.args), vars(self)

    def __str__(self) -> str:
        return f"{self.message} (request {self.request_id})" if self.request_id else self.message


class ConnectionFailed(GraceError):
    """No answer, or one that broke off. `arrived` is false if the request certainly never reached the server."""

    def __init__(self, message: str, *, request_id: str | None = None, arrived: bool = True) -> None:
        super().__init__(message, request_id=request_id)
        self.arrived = arrived


class TimedOut(ConnectionFailed):
    """The time allowed is over. The server may still be at work on it."""


class BadAnswer(GraceError):
    """An answer that is not one of a GRACE server: most likely the URL leads elsewhere."""


class ApiError(GraceError):
    """An error the server told of."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str = "unknown",
        code: str = "unknown",
        param: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, request_id=request_id)
        self.status = status
        self.type = type
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        told = [f"{self.status} {self.code}"]
        if self.request_id:
            told.append(f"request {self.request_id}")
        return f"{self.message} ({', '.join(told)})"


class BadRequest(ApiError):
    """Not a request this server understands."""


class AuthenticationFailed(ApiError):
    """No key, or a wrong one."""


class NotFound(ApiError):
    """There is nothing of that name."""


class IndexNotFound(NotFound):
    """There is no index and no alias of that name."""


class DocumentNotFound(NotFound):
    """The index has no document of that id."""


class Conflict(ApiError):
    """What is there forbids what was asked."""


class TooLarge(ApiError):
    """Over a limit, which the message names; waiting does not help."""


class InvalidValue(ApiError):
    """A field holds a value that cannot be served; `param` names it."""


class Overloaded(ApiError):
    """No room now."""


class ServerFailed(ApiError):
    """The server could not answer."""


class Unavailable(ServerFailed):
    """Loading, draining, or the engine is down."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: AuthenticationFailed,
    403: AuthenticationFailed,
    404: NotFound,
    405: BadRequest,
    409: Conflict,
    413: TooLarge,
    422: InvalidValue,
    429: Overloaded,
    503: Unavailable,
}
_BY_CODE: dict[str, type[ApiError]] = {
    "index_not_found": IndexNotFound,
    "document_not_found": DocumentNotFound,
}


def from_response(status: int, headers: Mapping[str, str], body: bytes, *, request_id: str) -> ApiError:
    """The error of an answer. What a proxy on the way answered has code `unknown`."""
    told = _envelope(body)
    kind = _BY_STATUS.get(status, ServerFailed if status >= 500 else ApiError)
    kind = _BY_CODE.get(told.get("code", ""), kind)
    return kind(
        told.get("message") or f"the answer has status {status}",
        status=status,
        type=told.get("type") or "unknown",
        code=told.get("code") or "unknown",
        param=told.get("param"),
        request_id=headers.get("x-request-id", request_id),
        retry_after_s=retry_after_s(headers.get("retry-after")),
    )


def from_event(data: str, *, request_id: str) -> ApiError:
    """The error of a stream that had begun well: the event holds the envelope, and there is no status any more."""
    told = _envelope(data.encode())
    return ServerFailed(
        told.get("message") or "the stream ended with an error",
        status=500,
        type=told.get("type") or "unknown",
        code=told.get("code") or "unknown",
        param=told.get("param"),
        request_id=request_id,
    )


def retry_after_s(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds of a `Retry-After`, which may be a number or a date. None if it says nothing."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())


def _envelope(body: bytes) -> dict[str, str]:
    try:
        told = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return {key: value for key, value in told.items() if isinstance(value, str)} if isinstance(told, dict) else {}
