"""How fast the engine is when it has all it can take: what admission refuses by."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from statistics import median

import pytest

from grace.prompt import Prompter
from grace_server.admission import Admission
from grace_server.errors import Overloaded, QueueTimeout, TooLarge
from grace_server.metrics import Metrics
from grace_server.pace import Pace
from grace_server.places import Places
from grace_server.together import together
from tests.server.conftest import until
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


def test_a_burst_into_an_idle_engine_claims_nothing_until_it_is_done() -> None:
    pace = Pace()
    pace.begin(0.0, inside=4 * 50)
    for step in range(3):
        pace.finish(50, 2.0 + 0.01 * step)
        assert pace.seconds_for(1000) == 0
    pace.finish(50, 2.03)
    assert pace.seconds_for(1000) == pytest.approx(1000 * 2.03 / 200, rel=0.05)


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

    ended: list[Exception | None] = []

    async def ask(number: int) -> None:
        try:
            await admission.represent(prompter.job(f"text {number}"))
        except (Overloaded, QueueTimeout) as error:
            ended.append(error)
        else:
            ended.append(None)

    await asyncio.gather(*(ask(i) for i in range(150)))
    refused = [error for error in ended if isinstance(error, Overloaded)]
    assert len(refused) > 90
    assert all(error.retry_after for error in refused)
    assert ended[: len(refused)] == refused  # before anyone was answered: none of them waited
    assert sum(isinstance(error, QueueTimeout) for error in ended) <= 5
    assert ended.count(None) >= 15
    all_released(metrics)


async def shows_its_pace(admission: Admission, prompter: Prompter, *, at_once: int) -> None:
    """As many callers as there are places, for as long as it takes to know what the engine can do."""
    for step in range(8):
        await asyncio.gather(*(admission.represent(prompter.job(f"before {step} {i}")) for i in range(at_once)))


async def test_who_is_let_in_is_answered_within_the_deadline_and_others_are_refused_at_once(prompter: Prompter) -> None:
    """Twenty texts a second at most, three seconds of arrivals at five times that: whoever is let in has 1 s."""
    limits = replace(WIDE, running_requests=4, queued_requests=1000, deadline_s=1.0)
    admission, _, metrics = make(prompter, limits, seconds=0.2)
    await shows_its_pace(admission, prompter, at_once=4)

    async def ask(number: int) -> tuple[type[BaseException] | None, float]:
        begin = time.perf_counter()
        error = (await asyncio.gather(admission.represent(prompter.job(f"text {number}")), return_exceptions=True))[0]
        return type(error) if isinstance(error, Exception) else None, time.perf_counter() - begin

    tasks = []
    for number in range(300):
        tasks.append(asyncio.create_task(ask(number)))
        await asyncio.sleep(0.01)
    found = await asyncio.gather(*tasks)
    answered = [seconds for kind, seconds in found if kind is None]
    refused = [seconds for kind, seconds in found if kind is Overloaded]
    assert len(answered) + len(refused) == 300
    assert len(answered) >= 40  # of the 60 that the engine can
    assert max(answered) <= 1.0
    assert median(refused) < 0.05
    all_released(metrics)


async def test_who_comes_alone_is_let_in_however_slow_the_engine(prompter: Prompter) -> None:
    limits = replace(WIDE, running_requests=1, deadline_s=0.1)
    admission, _, _ = make(prompter, limits, seconds=0.3)
    await shows_its_pace(admission, prompter, at_once=1)
    with pytest.raises(Overloaded, match="deadline_s"):
        await asyncio.gather(admission.represent(prompter.job("a")), admission.represent(prompter.job("b")))
    await until(lambda: not admission.places._running)
    await admission.represent(prompter.job("c"))


async def test_texts_of_one_request_that_could_not_be_answered_in_time_are_too_many(prompter: Prompter) -> None:
    limits = replace(WIDE, running_requests=2, queued_requests=1000, deadline_s=1.0)
    admission, _, _ = make(prompter, limits, seconds=0.1)
    await shows_its_pace(admission, prompter, at_once=2)
    admission.places.check([prompter.job(f"text {i}") for i in range(5)])
    with pytest.raises(TooLarge, match=r"60 texts in one request .*deadline_s"):
        admission.places.check([prompter.job(f"text {i}") for i in range(60)])


async def test_a_request_of_more_texts_than_places_to_an_idle_service_waits_though_the_pace_is_not_known(
    prompter: Prompter,
) -> None:
    limits = replace(WIDE, running_requests=4, queued_requests=1000, deadline_s=5.0)
    admission, _, metrics = make(prompter, limits)

    async def request(name: str, texts: int) -> int:
        jobs = [prompter.job(f"{name} {i}") for i in range(texts)]
        admission.places.check(jobs)
        return len(await asyncio.gather(*(admission.represent(job) for job in jobs)))

    first = asyncio.create_task(request("first", 10))
    await until(lambda: admission.places._running == 4)
    with pytest.raises(Overloaded, match="not known yet"):
        await admission.represent(prompter.job("another"))
    assert await first == 10
    assert await asyncio.create_task(request("again", 10)) == 10
    all_released(metrics)


async def test_a_request_for_which_there_is_not_room_enough_begins_none_of_its_texts(prompter: Prompter) -> None:
    limits = replace(WIDE, running_requests=4, queued_requests=1000, deadline_s=5.0)
    admission, _, _ = make(prompter, limits, seconds=0.2)
    inside = asyncio.create_task(admission.represent(prompter.job("one")))
    await until(lambda: admission.places._running == 1)
    admission.places.check([prompter.job(f"text {i}") for i in range(3)])
    with pytest.raises(Overloaded, match="not known yet"):
        admission.places.check([prompter.job(f"text {i}") for i in range(4)])
    await inside


async def test_what_is_withdrawn_is_no_work_done(prompter: Prompter) -> None:
    """Two places, 0.1 s a text; in each round one of many tokens enters and leaves before it is done."""
    admission, _, _ = make(prompter, replace(WIDE, queued_requests=1000), seconds=0.1)
    tokens = prompter.job("text").tokens_needed

    async def leaves() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01), admission.places.reserve(20 * tokens):
                await asyncio.sleep(1)

    for number in range(16):
        jobs = [prompter.job(f"text {number} {i}") for i in range(3)]
        await asyncio.gather(leaves(), *map(admission.represent, jobs))
    assert admission.places._pace.seconds_for(tokens) >= 0.04


async def test_as_long_as_the_pace_is_not_known_nobody_waits_whose_answer_is_promised(prompter: Prompter) -> None:
    limits = replace(WIDE, running_requests=4, queued_requests=1000, deadline_s=1.0)
    admission, _, _ = make(prompter, limits, seconds=0.2)
    asked = (admission.represent(prompter.job(f"text {i}")) for i in range(50))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in found) == 4
    assert all("not known yet" in str(each) for each in found if isinstance(each, Overloaded))


async def ask_together(admission: Admission, prompter: Prompter, name: str, *, texts: int) -> int:
    """One request, as the stops before admission ask: judged as a whole, then every text by itself."""
    jobs = [prompter.job(f"{name} {i}") for i in range(texts)]

    async def request() -> int:
        admission.places.check(jobs)
        return len(await together(*map(admission.represent, jobs)))

    return await asyncio.create_task(request())


async def test_a_request_that_comes_alone_is_answered_though_it_takes_longer_than_texts_may_wait(
    prompter: Prompter,
) -> None:
    """The pace is not known the first time, and known from then on."""
    limits = replace(WIDE, queued_requests=1000, queue_timeout_s=0.2)
    admission, _, metrics = make(prompter, limits, seconds=0.1)
    for attempt in range(3):
        assert await ask_together(admission, prompter, f"attempt {attempt}", texts=20) == 20
    assert admission.places._pace.seconds_for(18 * prompter.job("attempt 0 0").tokens_needed) > 0.2
    all_released(metrics)


async def test_who_comes_behind_a_long_request_is_refused_at_once_and_told_when_to_come_back(
    prompter: Prompter,
) -> None:
    admission, engine, metrics = make(prompter, replace(WIDE, queue_timeout_s=0.5), seconds=0.1)
    await ask_together(admission, prompter, "shows the pace", texts=20)
    long = asyncio.create_task(ask_together(admission, prompter, "long", texts=30))
    await until(lambda: admission.places._running == 2)
    with pytest.raises(Overloaded, match="the queue is full") as one:
        await admission.represent(prompter.job("another"))
    with pytest.raises(Overloaded, match="the queue is full") as several:
        await ask_together(admission, prompter, "others", texts=3)
    assert one.value.retry_after
    assert several.value.retry_after
    assert await long == 30
    assert engine.calls == 50  # none of the three was begun
    all_released(metrics)


async def test_a_request_waits_for_others_as_long_as_any_text_and_for_itself_as_long_as_it_takes(
    prompter: Prompter,
) -> None:
    admission, _, metrics = make(prompter, replace(WIDE, queue_timeout_s=0.5), seconds=0.1)
    await ask_together(admission, prompter, "shows the pace", texts=20)
    before = [asyncio.create_task(admission.represent(prompter.job(f"before {i}"))) for i in range(4)]
    await until(lambda: admission.places._running == 2)
    assert await ask_together(admission, prompter, "long", texts=20) == 20
    await asyncio.gather(*before)
    all_released(metrics)


async def test_a_request_none_of_whose_texts_gets_a_place_in_time_is_told_so(prompter: Prompter) -> None:
    admission, _, metrics = make(prompter, replace(WIDE, queue_timeout_s=0.1), seconds=0.5)
    before = [asyncio.create_task(admission.represent(prompter.job(f"before {i}"))) for i in range(2)]
    await until(lambda: admission.places._running == 2)
    with pytest.raises(QueueTimeout):
        await ask_together(admission, prompter, "behind", texts=3)
    await asyncio.gather(*before)
    all_released(metrics)


async def test_of_two_long_requests_that_come_at_the_same_moment_the_second_is_refused_at_once(
    prompter: Prompter,
) -> None:
    admission, _, metrics = make(prompter, replace(WIDE, queue_timeout_s=0.5), seconds=0.1)
    await ask_together(admission, prompter, "shows the pace", texts=20)
    requests = (ask_together(admission, prompter, f"request {i}", texts=20) for i in range(2))
    begin = time.perf_counter()
    first, second = [asyncio.create_task(request) for request in requests]
    with pytest.raises(Overloaded, match="the queue is full"):
        await second
    assert time.perf_counter() - begin < 0.4
    assert await first == 20
    all_released(metrics)


async def test_a_request_that_the_service_holds_as_a_whole_is_not_refused_for_what_its_long_texts_leave_empty(
    prompter: Prompter,
) -> None:
    tokens = prompter.job("all 0").tokens_needed
    limits = replace(WIDE, running_tokens=3 * tokens // 2, queued_tokens=3 * tokens // 2 + 1)
    admission, _, metrics = make(prompter, limits)
    assert await ask_together(admission, prompter, "all", texts=3) == 3
    with pytest.raises(TooLarge, match=r"max_running_tokens, max_queued_tokens\); send fewer texts at a time"):
        await ask_together(admission, prompter, "all", texts=4)
    all_released(metrics)


async def test_the_hint_is_the_wait_expected_however_long_nobody_came(prompter: Prompter) -> None:
    now = 0.0
    limits = replace(WIDE, running_requests=1, queued_requests=2, queue_timeout_s=60)
    places = Places(limits, Metrics(), clock=lambda: now)

    async def text() -> None:
        async with places.reserve(1):
            pass

    for _ in range(10):
        async with places.reserve(1):
            now += 4
            places.done(1)
    now += 600
    async with places.reserve(1):
        waiting = [asyncio.create_task(text()) for _ in range(2)]
        await until(lambda: len(places._waiting) == 2)
        with pytest.raises(Overloaded) as refused:
            await text()
    assert refused.value.retry_after == 8
    await asyncio.gather(*waiting)


@pytest.mark.parametrize(
    ("others", "error", "reason"), [(5, Overloaded, "queue_full"), (2, QueueTimeout, "queue_timeout")]
)
async def test_a_request_that_is_refused_counts_once_however_many_texts_it_has(
    prompter: Prompter, others: int, error: type[Exception], reason: str
) -> None:
    """It was let in as a whole, but before its texts set out others have taken the places, or all that there is."""
    admission, _, metrics = make(prompter, replace(WIDE, queued_requests=3, queue_timeout_s=0.1), seconds=0.5)
    jobs = [prompter.job(f"text {i}") for i in range(3)]
    admission.places.check(jobs)
    first = [
        asyncio.create_task(admission.represent(prompter.job(f"other {i}")), context=Context()) for i in range(others)
    ]
    await until(lambda: admission.places._running + len(admission.places._waiting) == others)
    ended = await asyncio.gather(*map(admission.represent, jobs), return_exceptions=True)
    assert [type(each) for each in ended] == [error] * 3
    assert metrics.registry.get_sample_value("grace_rejections_total", {"reason": reason}) == 1
    await asyncio.gather(*first, return_exceptions=True)
    all_released(metrics)
