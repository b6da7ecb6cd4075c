"""How fast the engine is when it has all it can take: what admission refuses by."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from statistics import median

import pytest

from grace.prompt import Prompter
from grace_server.errors import Overloaded, QueueTimeout
from grace_server.pace import Pace
from tests.server.test_admission import WIDE, all_released, make


def test_tokens_a_second_while_someone_waits():
    pace = Pace()
    pace.begin(100.0)
    for step in range(1, 21):
        pace.finish(50, 100.0 + 0.1 * step)
    assert pace.seconds_for(1000) == pytest.approx(2.0, rel=0.05)


def test_idle_time_does_not_make_the_engine_look_slow():
    pace = Pace()
    pace.begin(0.0)
    for step in range(1, 21):
        pace.finish(50, 0.1 * step)
    pace.end()
    pace.finish(50, 1000.0)  # one text by itself, long after
    pace.begin(2000.0)
    assert pace.seconds_for(1000) == pytest.approx(2.0, rel=0.05)


def test_what_lies_back_is_forgotten():
    pace = Pace()
    pace.begin(0.0)
    now = 0.0
    for seconds in (0.1,) * 100 + (0.4,) * 200:
        now += seconds
        pace.finish(50, now)
    assert pace.seconds_for(50) == pytest.approx(0.4, rel=0.05)


def test_nothing_is_claimed_without_evidence():
    pace = Pace()
    assert pace.seconds_for(1000) == 0
    pace.begin(0.0)
    pace.finish(50, 0.1)
    assert pace.seconds_for(1000) == 0


async def test_who_would_wait_in_vain_is_refused_at_once_and_who_is_let_in_does_not(prompter: Prompter) -> None:
    """Two texts at a time, 50 ms each, a second of patience: thirty or so of 150 have a place in time."""
    admission, _, metrics = make(prompter, replace(WIDE, queued_requests=1000, queue_timeout_s=1.0))
    asked = 0

    async def shows_its_pace() -> None:
        nonlocal asked
        while asked < 40:
            asked += 1
            await admission.represent(prompter.job(f"before {asked}"))

    await asyncio.gather(*(shows_its_pace() for _ in range(4)))

    async def ask(number: int) -> tuple[type[BaseException] | None, float, int | None]:
        begin = time.perf_counter()
        error = (await asyncio.gather(admission.represent(prompter.job(f"text {number}")), return_exceptions=True))[0]
        seconds = time.perf_counter() - begin
        return type(error) if isinstance(error, Exception) else None, seconds, getattr(error, "retry_after", None)

    found = await asyncio.gather(*(ask(i) for i in range(150)))
    refused = [(seconds, retry_after) for kind, seconds, retry_after in found if kind is Overloaded]
    assert len(refused) > 90
    assert all(retry_after for _, retry_after in refused)
    assert median(seconds for seconds, _ in refused) < 0.05
    assert sum(kind is QueueTimeout for kind, _, _ in found) <= 5
    assert sum(kind is None for kind, _, _ in found) >= 15
    all_released(metrics)
