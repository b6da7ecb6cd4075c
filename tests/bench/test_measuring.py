"""What benchmarks count is what they say: tried on stand-ins whose figures are known."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench import load, overhead, search
from bench._client import Reply
from bench._shared import with_interval
from bench.one_pass import BLOCK

SHORTENED = 10  # everything takes a tenth of its time


class Paced:
    """A service that answers so many a second, one after the other, and refuses whom it has no place for."""

    def __init__(self, rate: float, places: int) -> None:
        self._each, self._places, self._waiting = 1 / rate, places, 0
        self._free = 0.0  # when all that wait are answered

    def request(self, path: str, body: Any, method: str = "POST") -> bytes:
        return b""

    async def send(self, data: bytes) -> Reply:
        if self._waiting >= self._places:
            return Reply(429, {b"retry-after": b"1"}, b"queue_full", 0.0, 0.0)
        self._waiting += 1
        self._free = max(self._free, time.perf_counter()) + self._each
        await asyncio.sleep(self._free - time.perf_counter())
        self._waiting -= 1
        return Reply(200, {}, b"", 0.0, 0.0)


@pytest.mark.parametrize("offered", [0.5, 1.0, 2.0, 4.0])
async def test_no_service_has_a_goodput_beyond_what_it_does_in_a_second(
    monkeypatch: pytest.MonkeyPatch, offered: float
) -> None:
    monkeypatch.setattr(load, "DEADLINE_S", load.DEADLINE_S / SHORTENED)
    rate = 100.0
    client = cast("Any", Paced(rate, places=40))  # 0.4 s of work, within the deadline
    traffic = load.Traffic(client)
    found = await load.window(client, traffic, offered * rate, 17 / SHORTENED, random.Random(0))
    assert found["goodput_per_s"] <= 1.05 * rate
    assert found["goodput_per_s"] > 0.6 * min(1.0, offered) * rate  # arrivals are random, and few
    assert (found["refused"] > 0) == (offered > 1)


def test_a_service_that_only_its_cache_answers_past_capacity_misses_a_goal() -> None:
    def point(factor: float, worked: float) -> dict[str, Any]:
        always = dict.fromkeys(("refusals_with_retry_after", "let_in_and_in_time"), 1.0)
        none = {"refusal_ms_p50": None, "refusal_ms_p99": None, "failed": 0, "client_cpu_share": 0.1, "rss_mib": 100.0}
        return {"factor": factor, "goodput_per_s": 50.0, "worked_per_s": worked, **always, **none}

    found = load.promises([point(0.5, 25.0), point(1.0, 40.0), point(2.0, 0.0), point(10.0, 0.0)])
    assert found["goodput_past_capacity"] == 1.0
    assert found["worked_at"]["2"] == 0.0


def test_a_search_that_hangs_during_a_rebuild_shows_in_its_p99(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = threading.Lock()

    def dense(query: object, count: int) -> None:
        with hanging:
            time.sleep(0.0005)

    def maintain(what: str) -> None:
        with hanging:
            time.sleep(0.5)
        time.sleep(0.2)

    monkeypatch.setattr(search, "give_way", lambda: None)
    monkeypatch.setattr(search, "use_threads", lambda count: None)
    stand_in = cast("Any", SimpleNamespace(dense=dense, maintain=maintain))
    found = search.rebuilding(stand_in, np.zeros((100, 4), np.float32))
    assert found["rebuild_over_quiet_p99"] > 3
    assert found["rebuild_longest_ms"] > 400


def test_both_arms_of_the_overhead_have_room_for_all_that_are_asked_at_once() -> None:
    tokens = 480 + 64  # of 300 words with the template, and what the model of 100 M writes
    taken = overhead.CALLERS * -(-tokens // BLOCK) * BLOCK * 2 * 10 * 384 * 4  # keys and values of ten layers, float32
    assert overhead.SETTINGS["kv_cache_gib"] == overhead.KV_GIB
    assert taken < overhead.KV_GIB * 2**30


def test_the_stages_of_a_request_add_up_to_it() -> None:
    clock = {"service": 0.9, "queue": 0.1, "engine": 0.6, "waiting": 0.05, "model": 0.5, "pool": 0.05}
    assert sum(overhead.by_stage(1.0, clock).values()) == pytest.approx(1.0)


def test_what_was_measured_together_is_drawn_together() -> None:
    rng = np.random.default_rng(0)
    slow = rng.lognormal(0, 1.5, 200)  # times that vary far more than their ratio does
    pairs = np.stack([1.1 * slow, slow], axis=1)
    found = with_interval("ratio", pairs, of=search.ratio_of_medians)
    assert found["ratio"] == pytest.approx(1.1)
    assert found["ratio_interval"] == pytest.approx([1.1, 1.1])
    apart = with_interval("ratio", pairs[:, 0], pairs[:, 1], of=lambda a, b: np.median(a) / np.median(b))
    assert apart["ratio_interval"][0] < 1.0 < 1.2 < apart["ratio_interval"][1]
