"""When to ask again, and after how long. No clock and no network in here."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from grace_client.errors import ApiError, ConnectionFailed, GraceError, TimedOut

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

_NOTHING_WAS_DONE = frozenset({429, 503})
_GATEWAY = frozenset({502, 504})


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how patiently a request is repeated.

    Repeated are requests that never arrived, those the server refused for now (429, 503), and, if doing them twice does
    no harm, those whose connection broke. A request that ran into its timeout is not: the server is at work on it, and
    asking again would double that.
    """

    attempts: int = 4  # in all, the first one included
    first_wait_s: float = 0.5  # doubles each time, where the server names none
    longest_wait_s: float = 60.0  # a server that asks for more is not waited for
    draw: Callable[[], float] = field(default=random.random, repr=False)  # in [0, 1)

    def wait_s(self, error: GraceError, *, attempt: int, idempotent: bool) -> float | None:
        """Seconds to wait after `attempt` (from 1) failed. None: raise the error.

        Never less than `Retry-After`; the jitter comes on top, so that clients refused together do not return together.
        """
        if attempt >= self.attempts or not _may_repeat(error, idempotent=idempotent):
            return None
        asked = error.retry_after_s if isinstance(error, ApiError) else None
        if asked is None:
            most = self.first_wait_s * 2.0 ** min(attempt - 1, 99)  # far above the longest; 2.0**1024 is an error
            return min(self.longest_wait_s, most * (0.5 + self.draw() / 2))
        if asked > self.longest_wait_s:
            return None
        return asked + self.draw() * max(self.first_wait_s, asked / 4)


NO_RETRIES = Retries(attempts=1)


def _may_repeat(error: GraceError, *, idempotent: bool) -> bool:
    match error:
        case TimedOut():
            return not error.arrived
        case ConnectionFailed():
            return idempotent or not error.arrived
        case ApiError(status=status) if status in _NOTHING_WAS_DONE:
            return True
        case ApiError(status=status, code=code):
            return idempotent and (status in _GATEWAY or code == "engine_error")
        case _:
            return False
