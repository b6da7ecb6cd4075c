"""What can go wrong, one class per cause.

GraceError
├── CheckpointError          the folder or hub id cannot be used as it stands; the message says why
│   └── UnsupportedModel     it loads, but cannot be pooled exactly
├── InvalidInput             a value of the caller's; `param` names it
│   └── InputTooLong         over the limit with truncation off; `limit` and `length` in tokens
└── EngineError              the engine cannot answer
    ├── EngineDead           it will not answer again: restart the process
    ├── StateMismatch        states were lost or counted twice; no vector is better than a wrong one
    └── StateNotFinite       states are NaN or infinite
"""

from collections.abc import Sequence
from functools import partial
from typing import Any


class GraceError(Exception):
    """Root of every error this package raises on purpose."""


class CheckpointError(GraceError):
    """The folder or hub id cannot be used as it stands."""


class UnsupportedModel(CheckpointError):
    """The model loads, but its prompt or its states cannot be handled exactly."""


class InvalidInput(GraceError, ValueError):
    """A value of the caller's that cannot be served; `param` names it."""

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param

    def __reduce__(self) -> tuple[Any, ...]:
        # Of another process it comes pickled, and pickle by itself knows nothing of `param`.
        return partial(InvalidInput, param=self.param), self.args


class InputTooLong(InvalidInput):
    """The text is over the token limit and truncation is off."""

    def __init__(self, length: int, limit: int, *, param: str = "input") -> None:
        super().__init__(f"{param} is {length} tokens long, the limit is {limit} tokens", param=param)
        self.length, self.limit = length, limit

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(InputTooLong, param=self.param), (self.length, self.limit)


class EngineError(GraceError):
    """The engine could not answer this time."""


class EngineDead(EngineError):
    """The engine will not answer again; the process must be restarted."""


class StateMismatch(EngineError):
    """The number of pooled states is not the number expected: a vector made of them would be wrong."""


class StateNotFinite(EngineError):
    """States are NaN or infinite: a vector made of them has no direction."""


def check_one_of(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a value that is none of those known.

    Raises:
        InvalidInput: it is none of them.
    """
    if value not in known:
        raise InvalidInput(f"{name} must be one of {', '.join(known)}, not {value!r}", param=name)
