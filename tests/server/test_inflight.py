"""Identical texts in flight share one generation, and nobody's leaving hurts another."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from grace.engines.fake import FakeEngine
from grace.errors import EngineDead
from grace.prompt import Prompter
from grace.representation import Job
from grace_server.admission import Admission
from grace_server.errors import QueueTimeout
from grace_server.inflight import InFlight
from grace_server.metrics import Metrics
from grace_server.stop import in_background
from tests.server.conftest import Serve, until
from tests.server.test_admission import WIDE, all_released


async def test_identical_texts_are_generated_once(serve: Serve) -> None:
    service = await serve(seconds=0.1, cache=False)
    replies = await asyncio.gather(*(service.embed(input="the same") for _ in range(8)))
    assert service.engine.calls == 1
    assert len({str(reply["data"][0]["embedding"]) for reply in replies}) == 1
    assert service.metric("grace_shared_total") == 7


async def test_a_batch_needs_no_room_for_what_others_are_waiting_for(serve: Serve) -> None:
    service = await serve(
        seconds=0.2, cache=False, max_running_requests=1, max_queued_requests=2, max_inputs=3, max_samples=1
    )
    first = asyncio.create_task(service.embed(input=["a", "b", "c"]))
    await until(lambda: service.metric("grace_queued_requests") == 2)
    second = await service.embed(input=["c", "b", "a"])
    assert [item["embedding"] for item in second["data"][::-1]] == [i["embedding"] for i in (await first)["data"]]
    assert service.engine.calls == 3
    assert service.metric("grace_shared_total") == 3


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


def begun_in_the_background(shared: InFlight, jobs: list[Job]) -> list[asyncio.Task[object]]:
    async def embed(job: Job) -> object:
        in_background.set(True)
        return await shared.represent(job)

    return [asyncio.create_task(embed(job)) for job in jobs]


@pytest.mark.parametrize(("after_s", "queued"), [(0.01, 5), (0, 0)], ids=["waiting", "before it waits"])
async def test_who_joins_what_is_to_wait_in_the_background_brings_it_forward(
    prompter: Prompter, after_s: float, queued: int
) -> None:
    engine, metrics = FakeEngine(prompter, seconds_per_text=0.05), Metrics()
    shared = InFlight(Admission(engine, replace(WIDE, running_requests=1), metrics, generate_timeout_s=5), metrics)
    jobs = [prompter.job(f"text {i}") for i in range(6)]
    behind = begun_in_the_background(shared, jobs)
    await asyncio.sleep(after_s)
    assert metrics.registry.get_sample_value("grace_queued_requests") == queued
    await shared.represent(jobs[-1])
    assert [task.done() for task in behind[1:-1]] == [False] * 4
    await asyncio.gather(*behind)
    assert engine.calls == 6
    all_released(metrics)


async def test_who_joins_what_waits_in_the_background_is_promised_what_requests_are(prompter: Prompter) -> None:
    engine, metrics = FakeEngine(prompter, seconds_per_text=30), Metrics()
    admission = Admission(
        engine, replace(WIDE, running_requests=1, queue_timeout_s=0.05), metrics, generate_timeout_s=60
    )
    shared = InFlight(admission, metrics)
    jobs = [prompter.job(f"text {i}") for i in range(3)]
    behind = begun_in_the_background(shared, jobs)
    await asyncio.sleep(0.1)
    with pytest.raises(QueueTimeout):
        await shared.represent(jobs[1])
    assert metrics.registry.get_sample_value("grace_rejections_total", {"reason": "queue_timeout"}) == 1
    assert [task.done() for task in behind] == [False, True, False]
    for task in behind:
        task.cancel()
    await asyncio.gather(*behind, return_exceptions=True)
    await until(lambda: engine.cancelled == 1)
    all_released(metrics)
