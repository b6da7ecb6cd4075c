"""Errors reach another process, or a copy, as they are: a pool whose worker's error cannot be read waits for ever."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_client import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GraceError)]
WORDS = st.text(max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "message": WORDS,
    "request_id": st.none() | WORDS,
    "arrived": st.booleans(),
    "status": st.integers(100, 599),
    "type": WORDS,
    "code": WORDS,
    "param": st.none() | WORDS,
    "retry_after_s": st.none() | st.floats(min_value=0, allow_infinity=False),
}


@st.composite
def raised(draw: st.DrawFn) -> errors.GraceError:
    kind = draw(st.sampled_from(KINDS))
    message, *options = inspect.signature(kind).parameters
    error = kind(draw(VALUES[message]), **{name: draw(VALUES[name]) for name in options})
    if draw(st.booleans()):
        error.add_note("of batch 3")
    return error


def through(protocol: int) -> Callable[[errors.GraceError], errors.GraceError]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, *map(through, PROTOCOLS)],
    ids=["copy", "deepcopy", *(f"pickle {protocol}" for protocol in PROTOCOLS)],
)
@given(error=raised())
def test_an_error_stays_what_it_is(
    again: Callable[[errors.GraceError], errors.GraceError], error: errors.GraceError
) -> None:
    twin = again(error)
    assert twin is not error
    assert type(twin) is type(error)
    assert (vars(twin), twin.args, str(twin)) == (vars(error), error.args, str(error))
