"""Who is let in, who waits, who is sent away: by texts and by tokens."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_server.admission import Admission
from grace_server.errors import EngineDown, GenerationTimeout, Overloaded, QueueTimeout, TooLarge
from grace_server.metrics import Metrics
from grace_server.places import Limits
from grace_server.stop import in_background
from tests.server.conftest import Serve, until

WIDE = Limits(2, 10_000, 100, 1_000_000, queue_timeout_s=5)


def make(
    prompter: Prompter, limits: Limits = WIDE, *, seconds: float = 0.05, generate_timeout_s: float = 5
) -> tuple[Admission, FakeEngine, Metrics]:
    engine, metrics = FakeEngine(prompter, seconds_per_text=seconds), Metrics()
    return Admission(engine, limits, metrics, generate_timeout_s=generate_timeout_s), engine, metrics


def all_released(metrics: Metrics) -> None:
    value = metrics.registry.get_sample_value
    names = ("running_requests", "running_tokens", "queued_requests", "queued_tokens")
    assert [value(f"grace_{name}") for name in names] == [0, 0, 0, 0]


async def test_no_more_texts_than_allowed_are_inside_and_all_are_served(prompter: Prompter) -> None:
    admission, engine, metrics = make(prompter)
    jobs = [prompter.job(f"text {i}") for i in range(10)]
    most = 0

    async def observe() -> None:
        nonlocal most
        while True:
            most = max(most, int(metrics.registry.get_sample_value("grace_running_requests") or 0))
            await asyncio.sleep(0.005)

    watcher = asyncio.create_task(observe())
    await asyncio.gather(*(admission.represent(job) for job in jobs))
    watcher.cancel()
    assert most == 2
    assert engine.calls == 10
    all_released(metrics)


async def test_tokens_count_too(prompter: Prompter) -> None:
    job = prompter.job("a text")
    limits = replace(WIDE, running_requests=100, running_tokens=job.tokens_needed * 3)
    admission, _, metrics = make(prompter, limits)
    tasks = [asyncio.create_task(admission.represent(prompter.job("a text", sample=i))) for i in range(7)]
    await asyncio.sleep(0.01)
    assert metrics.registry.get_sample_value("grace_running_requests") == 3
    assert metrics.registry.get_sample_value("grace_queued_tokens") == 4 * job.tokens_needed
    await asyncio.gather(*tasks)
    all_released(metrics)


async def test_what_can_never_fit_is_refused_and_does_not_hang(prompter: Prompter) -> None:
    job = prompter.job("a text")
    admission, engine, _ = make(prompter, replace(WIDE, running_tokens=job.tokens_needed - 1))
    with pytest.raises(TooLarge, match="max_running_tokens"):
        await admission.represent(job)
    with pytest.raises(TooLarge):
        admission.places.check([job])
    assert engine.calls == 0


async def test_a_request_is_judged_as_a_whole(prompter: Prompter) -> None:
    jobs = [prompter.job(f"text {i}") for i in range(6)]
    admission, _, metrics = make(prompter, replace(WIDE, queued_requests=3), seconds=0.2)
    with pytest.raises(TooLarge):
        admission.places.check(jobs)
    admission.places.check(jobs[:5])
    running = asyncio.create_task(admission.represent(jobs[0]))
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        admission.places.check(jobs[:5])
    await running
    all_released(metrics)


async def test_a_full_queue_says_when_to_come_back(prompter: Prompter) -> None:
    admission, _, metrics = make(prompter, replace(WIDE, queued_requests=1), seconds=0.1)
    tasks = [asyncio.create_task(admission.represent(prompter.job(f"text {i}"))) for i in range(3)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded) as refused:
        await admission.represent(prompter.job("one too many"))
    assert refused.value.retry_after is not None
    assert 1 <= refused.value.retry_after <= 60
    await asyncio.gather(*tasks)
    assert metrics.registry.get_sample_value("grace_rejections_total", {"reason": "queue_full"}) == 1
    all_released(metrics)


@pytest.mark.parametrize(
    ("texts", "hint"),
    [([(0, 4)] * 10, 4), ([(0, 1)] * 10 + [(600, 1)] + [(0, 1)] * 2, 1), ([(0, 45)] * 3 + [(50, 45)], 60)],
    ids=["one text every four seconds", "one a second, ten idle minutes in between", "one a minute and more"],
)
async def test_the_hint_follows_the_observed_rate(prompter: Prompter, texts: list[tuple[int, int]], hint: int) -> None:
    now = 0.0
    admission = Admission(
        FakeEngine(prompter),
        replace(WIDE, running_requests=1, queued_requests=0),
        Metrics(),
        generate_timeout_s=5,
        clock=lambda: now,
    )
    for idle, seconds in texts:
        now += idle
        async with admission.places.reserve(1):
            now += seconds
    async with admission.places.reserve(1):
        with pytest.raises(Overloaded) as refused:
            await admission.represent(prompter.job("x"))
    assert refused.value.retry_after == hint


async def test_waiting_has_an_end(prompter: Prompter) -> None:
    limits = replace(WIDE, running_requests=1, queue_timeout_s=0.05)
    admission, _, metrics = make(prompter, limits, seconds=0.3)
    first = asyncio.create_task(admission.represent(prompter.job("first")))
    await asyncio.sleep(0.01)
    with pytest.raises(QueueTimeout):
        await admission.represent(prompter.job("second"))
    await first
    all_released(metrics)


async def test_an_engine_that_takes_too_long_is_given_up(prompter: Prompter) -> None:
    admission, engine, metrics = make(prompter, seconds=10, generate_timeout_s=0.05)
    with pytest.raises(GenerationTimeout):
        await admission.represent(prompter.job("slow"))
    assert engine.cancelled == 1
    all_released(metrics)


async def test_departures_at_any_moment_leave_nothing_behind(prompter: Prompter) -> None:
    admission, _, metrics = make(prompter, seconds=0.02)
    tasks = [asyncio.create_task(admission.represent(prompter.job(f"text {i}"))) for i in range(60)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0.002)
        if number % 3 == 0:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) >= 10
    assert not [r for r in results if isinstance(r, Exception)]
    all_released(metrics)


async def test_the_engines_death_ends_all_waiting_inside_and_outside(prompter: Prompter) -> None:
    admission, _, metrics = make(prompter, seconds=30)
    tasks = [asyncio.create_task(admission.represent(prompter.job(f"text {i}"))) for i in range(5)]
    await asyncio.sleep(0.01)
    admission.fail()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [EngineDown] * 5
    with pytest.raises(EngineDown):
        await admission.represent(prompter.job("late"))
    all_released(metrics)


async def test_what_is_late_already_does_not_keep_the_engines_death_from_the_others(prompter: Prompter) -> None:
    admission, _, metrics = make(prompter, seconds=30, generate_timeout_s=0.5)
    late = asyncio.create_task(admission.represent(prompter.job("late")))
    loop, troubles = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _, trouble: troubles.append(trouble))
    loop.call_later(0.55, admission.fail)
    await asyncio.sleep(0.25)
    other = asyncio.create_task(admission.represent(prompter.job("other")))
    await asyncio.sleep(0.01)
    time.sleep(0.35)  # noqa: ASYNC251 - one turn of the loop in which the first one's time ends, and the engine dies
    results = await asyncio.gather(late, other, return_exceptions=True)
    assert [type(result) for result in results] == [EngineDown] * 2
    assert not troubles
    all_released(metrics)


async def test_over_http_full_is_429_with_retry_after_and_the_others_are_served(serve: Serve) -> None:
    service = await serve(
        seconds=0.2, max_running_requests=1, max_queued_requests=1, max_inputs=1, max_samples=2, cache=False
    )
    replies = await asyncio.gather(*(service.client.post("/embed", json={"input": f"t {i}"}) for i in range(5)))
    by_status = sorted(reply.status_code for reply in replies)
    assert by_status == [200, 200, 429, 429, 429]
    refused = next(reply for reply in replies if reply.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"


async def test_requests_of_many_texts_do_not_lock_each_other_out(serve: Serve) -> None:
    service = await serve(seconds=0.01, max_running_requests=3, max_running_tokens=400, cache=False)
    async with asyncio.timeout(20):
        replies = await asyncio.gather(
            *(service.embed(input=[f"text {r}.{i}" for i in range(16)]) for r in range(4)),
        )
    assert all(len(reply["data"]) == 16 for reply in replies)
    await until(lambda: service.metric("grace_running_requests") == 0)


async def test_who_is_waited_for_goes_before_background_work_and_finds_a_place(prompter: Prompter) -> None:
    admission, _, metrics = make(prompter, replace(WIDE, running_requests=4))
    finished: list[str] = []

    async def ask(name: str, *, background: bool) -> None:
        in_background.set(background)
        await admission.represent(prompter.job(name))
        finished.append(name)

    behind = [asyncio.create_task(ask(f"behind {i}", background=True)) for i in range(6)]
    await asyncio.sleep(0.01)
    assert metrics.registry.get_sample_value("grace_running_requests") == 2  # half of the places
    first = [asyncio.create_task(ask(f"first {i}", background=False)) for i in range(6)]
    await asyncio.gather(*behind, *first)
    assert {name.split()[0] for name in finished[:2]} == {"behind"}  # those that were running
    assert {name.split()[0] for name in finished[2:8]} == {"first"}
    all_released(metrics)


async def test_background_work_waits_as_long_as_it_takes_and_is_no_refused_request(prompter: Prompter) -> None:
    limits = replace(WIDE, running_requests=1, queued_requests=0, queue_timeout_s=0.02)
    admission, engine, metrics = make(prompter, limits)
    in_background.set(True)
    await asyncio.gather(*(admission.represent(prompter.job(f"text {i}")) for i in range(6)))
    assert engine.calls == 6
    value = metrics.registry.get_sample_value
    assert value("grace_queue_seconds_count") == 0
    assert [value("grace_rejections_total", {"reason": r}) for r in ("queue_full", "queue_timeout")] == [0, 0]
    all_released(metrics)


async def test_background_work_that_waits_takes_no_place_in_the_queue(prompter: Prompter) -> None:
    job = prompter.job("a text")
    limits = replace(WIDE, running_requests=1, queued_requests=1, queued_tokens=job.tokens_needed)
    admission, _, metrics = make(prompter, limits)
    in_background.set(True)
    behind = [asyncio.create_task(admission.represent(prompter.job("a text", sample=1 + i))) for i in range(4)]
    in_background.set(False)
    await asyncio.sleep(0.01)
    assert metrics.registry.get_sample_value("grace_queued_requests") == 3
    admission.places.check([job])
    await admission.represent(job)
    assert not all(task.done() for task in behind)
    await asyncio.gather(*behind)
    all_released(metrics)


async def test_background_work_that_waits_ends_with_the_engine_and_when_it_is_told_to(prompter: Prompter) -> None:
    admission, _, metrics = make(prompter, seconds=30)
    in_background.set(True)
    tasks = [asyncio.create_task(admission.represent(prompter.job(f"text {i}"))) for i in range(5)]
    await asyncio.sleep(0.01)
    tasks[-1].cancel()
    await asyncio.sleep(0.01)
    assert tasks[-1].cancelled()
    admission.fail()
    results = await asyncio.gather(*tasks[:-1], return_exceptions=True)
    assert [type(result) for result in results] == [EngineDown] * 4
    all_released(metrics)


async def test_documents_of_an_index_are_embedded_one_by_one_and_none_is_refused(serve: Serve) -> None:
    service = await serve(seconds=0.05, queue_timeout_s=0.02, cache=False, engine="transformers")
    await service.client.put("/indexes/a")
    documents = [{"id": str(i), "text": f"text {i}"} for i in range(12)]
    async with asyncio.timeout(20):
        reply = await service.client.post("/indexes/a/documents", json={"documents": documents, "wait": True})
    assert reply.json()["job"]["done"] == 12
    assert service.engine.calls == 12
    assert service.metric("grace_rejections_total", reason="queue_timeout") == 0


async def test_a_stop_ends_background_work_that_waits_and_the_next_start_goes_on_with_it(serve: Serve) -> None:
    service = await serve(seconds=30, cache=False, engine="transformers")
    await service.client.put("/indexes/a")
    documents = [{"id": str(i), "text": f"text {i}"} for i in range(40)]
    job = (await service.client.post("/indexes/a/documents", json={"documents": documents})).json()["job"]["id"]
    await until(lambda: service.metric("grace_queued_requests") > 0)
    async with asyncio.timeout(20):
        service = await serve(cache=False, engine="transformers")
        while (await service.client.get(f"/jobs/{job}")).json()["done"] < 40:  # noqa: ASYNC110 - over HTTP
            await asyncio.sleep(0.01)


async def test_background_work_that_takes_more_than_its_share_is_let_in_alone(prompter: Prompter) -> None:
    job = prompter.job("a text")
    admission, engine, metrics = make(prompter, replace(WIDE, running_tokens=job.tokens_needed))
    in_background.set(True)
    await asyncio.gather(*(admission.represent(prompter.job("a text", sample=i)) for i in range(2)))
    assert engine.calls == 2
    all_released(metrics)


async def test_the_queries_of_a_search_are_let_in_as_a_whole_as_the_texts_of_other_requests_are(serve: Serve) -> None:
    service = await serve(seconds=0.1, max_running_requests=1, queue_timeout_s=0.15, cache=False, engine="transformers")
    await service.client.put("/indexes/a")
    documents = [{"id": "one", "text": "A text."}]
    await service.client.post("/indexes/a/documents", json={"documents": documents, "wait": True})
    queries = [f"query {i}" for i in range(6)]
    async with asyncio.timeout(20):
        reply = await service.client.post("/search", json={"index": "a", "query": queries})
    assert reply.status_code == 200, reply.text
    assert [[hit["id"] for hit in one["hits"]] for one in reply.json()["results"]] == [["one"]] * 6
    assert service.engine.calls == 7
    service = await serve(max_running_requests=1, max_queued_requests=1, max_inputs=1, max_samples=2, cache=False)
    refused = await service.client.post("/search", json={"index": "a", "query": queries})
    assert refused.status_code == 413, refused.text
    assert refused.json()["error"]["param"] == "query"
