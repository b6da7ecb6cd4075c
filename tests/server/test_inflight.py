"""Identical texts in flight share one generation, and nobody's leaving hurts another."""

from __future__ import annotations

import asyncio

import pytest

from grace.engines.fake import FakeEngine
from grace.errors import EngineDead
from grace.prompt import Prompter
from grace_server.inflight import InFlight
from grace_server.metrics import Metrics
from tests.server.conftest import Serve


async def test_identical_texts_are_generated_once(serve: Serve) -> None:
    service = await serve(seconds=0.1, cache=False)
    replies = await asyncio.gather(*(service.embed(input="the same") for _ in range(8)))
    assert service.engine.calls == 1
    assert len({str(reply["data"][0]["embedding"]) for reply in replies}) == 1
    assert service.metric("grace_shared_total") == 7


async def test_another_option_is_another_generation(serve: Serve) -> None:
    service = await serve(seconds=0.05, cache=False)
    await asyncio.gather(
        *(
            service.embed(input="the same", **options)
            for options in ({}, {"role": "query"}, {"mode": "direct"}, {"max_rationale_tokens": 5}, {"temperature": 1})
        )
    )
    assert service.engine.calls == 5


async def test_a_departed_caller_does_not_cancel_the_others(prompter: Prompter) -> None:
    engine = FakeEngine(prompter, seconds_per_text=0.1)
    shared = InFlight(engine, Metrics())
    job = prompter.job("a text")
    first, second = asyncio.create_task(shared.represent(job)), asyncio.create_task(shared.represent(job))
    await asyncio.sleep(0.02)
    first.cancel()
    assert (await second).segments
    assert (engine.calls, engine.cancelled) == (1, 0)


async def test_the_last_one_to_leave_cancels_and_a_newcomer_starts_afresh(prompter: Prompter) -> None:
    engine = FakeEngine(prompter, seconds_per_text=0.1)
    shared = InFlight(engine, Metrics())
    job = prompter.job("a text")
    tasks = [asyncio.create_task(shared.represent(job)) for _ in range(3)]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.sleep(0)
    newcomer = asyncio.create_task(shared.represent(job))
    assert (await newcomer).segments
    assert (engine.calls, engine.cancelled) == (2, 1)


async def test_an_error_reaches_everyone_who_waits_and_is_not_kept(prompter: Prompter) -> None:
    engine = FakeEngine(prompter, seconds_per_text=0.1)
    shared = InFlight(engine, Metrics())
    job = prompter.job("a text")
    tasks = [asyncio.create_task(shared.represent(job)) for _ in range(3)]
    await asyncio.sleep(0.02)
    engine.kill()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [EngineDead] * 3
    with pytest.raises(EngineDead):
        await shared.represent(job)
    assert engine.calls == 2
