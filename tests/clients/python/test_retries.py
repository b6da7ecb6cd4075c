"""When a request is repeated, and after how long: no clock, no network."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_client import ConnectionFailed, Overloaded, Retries
from grace_client.errors import retry_after_s


def full(asked: float | None) -> Overloaded:
    return Overloaded("full", status=429, retry_after_s=asked)


@given(st.floats(0, 60), st.floats(0, 1, exclude_max=True), st.integers(1, 3))
def test_never_sooner_than_asked_and_not_much_later(asked: float, drawn: float, attempt: int) -> None:
    wait_s = Retries(draw=lambda: drawn).wait_s(full(asked), attempt=attempt, idempotent=False)
    assert wait_s is not None
    assert asked <= wait_s <= asked + max(0.5, asked / 4)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 30))
def test_without_being_asked_it_doubles_up_to_a_limit(drawn: float, attempt: int) -> None:
    wait_s = Retries(attempts=99, draw=lambda: drawn).wait_s(full(None), attempt=attempt, idempotent=True)
    assert wait_s is not None
    most = 0.5 * 2 ** (attempt - 1)
    assert min(60, most / 2) <= wait_s <= min(60, most)


def test_a_wait_has_its_end_after_any_number_of_attempts() -> None:
    assert Retries(attempts=10**6, draw=lambda: 1.0).wait_s(full(None), attempt=5000, idempotent=True) == 60


def test_clients_refused_together_do_not_return_together() -> None:
    waits = {Retries().wait_s(full(5.0), attempt=1, idempotent=True) for _ in range(20)}
    assert len(waits) > 10


def test_it_ends() -> None:
    retries = Retries(attempts=3)
    assert retries.wait_s(full(1.0), attempt=2, idempotent=True) is not None
    assert retries.wait_s(full(1.0), attempt=3, idempotent=True) is None
    assert retries.wait_s(full(61.0), attempt=1, idempotent=True) is None
    assert retries.wait_s(ConnectionFailed("cut off"), attempt=1, idempotent=False) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
        ("²", None),
        ("Mon, 23 Nov 99999999999 12:00:30 GMT", None),
        (None, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, now=datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)) == seconds
