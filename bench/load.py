"""An open loop against a real server: goodput and latency from idle to ten times its capacity.

Requests come at random moments at the offered rate and never wait for answers, as clients who know nothing of each
other do; a closed loop would slow down with the server and hide its queue. The traffic (`bench/_traffic.py`) is mixed:
short queries, documents of 180 words, searches, texts that were asked before, and a trickle of documents into the
index. Latency counts from the moment a request was due: a client that lags would show as latency of the server. The
client's share of a core stands beside the figures.

Capacity is what a closed loop of as many callers as the engine has places gets answered a second. The bundled model,
the service's own settings but for two: `max_running_requests` (one step) and `deadline_s` (5 s).

Promises, past capacity: goodput (answers within the deadline) stays at 0.9 of what a lower rate had reached; refusals
come within 50 ms and say `Retry-After`; who was let in is answered in time; memory does not grow. What of the goodput
no cache answers is told apart: on two cores it gives way to reading and refusing.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import psutil

from bench._arrivals import poisson, quantile
from bench._client import Client, Reply
from bench._server import Server, served
from bench._shared import arguments, least_of, report, with_interval
from bench._traffic import INDEX, Ask, Traffic

SETTINGS = {"max_num_seqs": 64, "max_running_requests": 64, "deadline_s": 5}
DEADLINE_S = 5.0
FACTORS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 10.0)
INDEXED = 500
TRICKLE_S, TRICKLE = 5.0, 10  # every so many seconds, so many documents
GIVE_UP_S = 30.0


@dataclass(slots=True)
class Outcome:
    """What became of one request."""

    kind: str
    status: int  # 0: no answer
    came: float  # when its answer was there, by `time.perf_counter`
    seconds: float  # from the moment it was due
    refused_s: float  # from being sent, for refusals
    retry_after: bool
    code: bytes


def main() -> None:
    options = arguments(__doc__ or "", seconds=17, calibrate=8, seed=1)
    with served(**SETTINGS) as server:
        figures = asyncio.run(measure(server, options))
    report(figures, options.json)


async def measure(server: Server, options: Any) -> dict[str, Any]:
    client = Client(server.port)
    traffic = Traffic(client, options.seed)
    await prepare(server, client, traffic)
    capacity = await closed_loop(client, traffic, options.calibrate)
    print(f"capacity {capacity:.1f}/s", file=sys.stderr, flush=True)
    trickle = asyncio.create_task(ingest(client, traffic))
    curve = []
    for number, factor in enumerate(FACTORS):
        curve.append(
            {"factor": factor}
            | await window(
                client, traffic, factor * capacity, options.seconds, random.Random(options.seed + number), server.pid
            )
            | {"rss_mib": rss_mib(server.pid)}
        )
        print(curve[-1], file=sys.stderr, flush=True)
    trickle.cancel()
    client.close()
    return {
        "capacity_per_s": capacity,
        "deadline_s": DEADLINE_S,
        "settings": SETTINGS,
        **promises(curve),
        "curve": curve,
    }


async def prepare(server: Server, client: Client, traffic: Traffic) -> None:
    """An index with documents, and the repeated texts asked for once."""
    await asyncio.to_thread(server.post, f"/indexes/{INDEX}", {}, "PUT")
    batch = traffic.documents(INDEXED) | {"wait": True}
    await asyncio.to_thread(server.post, f"/indexes/{INDEX}/documents", batch)
    await asyncio.to_thread(server.post, "/embed", {"input": traffic.repeated()})


async def closed_loop(client: Client, traffic: Traffic, seconds: float) -> float:
    """Answers a second to as many callers as the engine has places; the first third warms up.

    Who is sent away waits for as long as he is told.
    """
    answered, end = 0, time.perf_counter() + seconds
    counted_from = time.perf_counter() + seconds / 3

    async def caller() -> None:
        nonlocal answered
        while time.perf_counter() < end:
            reply = await client.send(traffic.next().data)
            answered += reply.status == 200 and counted_from < time.perf_counter() < end
            await asyncio.sleep(float(reply.headers.get(b"retry-after", b"0")))

    await asyncio.gather(*(caller() for _ in range(SETTINGS["max_num_seqs"])))
    return answered / (end - counted_from)


async def ingest(client: Client, traffic: Traffic, awake: asyncio.Event | None = None) -> None:
    """Documents for the index, a few every now and then, while `awake` is set."""
    while True:
        if awake is not None:
            await awake.wait()
        await client.send(client.request(f"/indexes/{INDEX}/documents", traffic.documents(TRICKLE)))
        await asyncio.sleep(TRICKLE_S)


async def window(
    client: Client, traffic: Traffic, rate: float, seconds: float, rng: random.Random, server: int | None = None
) -> dict[str, Any]:
    """Offer `rate` requests a second for a while, then wait until all are answered; `server` is its process."""
    due = poisson(rate, seconds, rng)
    asks = [traffic.next() for _ in due]
    lags: list[float] = []
    pending: list[asyncio.Task[Outcome]] = []
    start, cpu = time.perf_counter(), computed(server)
    for moment, ask in zip(due, asks, strict=True):
        if (wait := start + moment - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        lags.append(time.perf_counter() - start - moment)
        pending.append(asyncio.create_task(one(client, ask, start + moment)))
    await asyncio.sleep(max(0.0, start + seconds - time.perf_counter()))
    passed = time.perf_counter() - start
    cores = {name: (now - cpu[name]) / passed for name, now in computed(server).items()}
    outcomes = await asyncio.gather(*pending)
    return summary(outcomes, start + DEADLINE_S, start + seconds) | {
        "offered_per_s": len(due) / seconds,
        "client_lag_ms_p99": 1000 * (quantile(lags, 0.99) or 0),
        **cores,
    }


def computed(server: int | None) -> dict[str, float]:
    """Seconds that this client has computed, and the service's two processes: its own and the engine's."""
    found = {"client_cpu_share": time.process_time()}
    if server is not None:
        service = psutil.Process(server)
        found["service_cpu_share"] = sum(service.cpu_times()[:2])
        found["engine_cpu_share"] = sum(sum(one.cpu_times()[:2]) for one in service.children(recursive=True))
    return found


async def one(client: Client, ask: Ask, due: float) -> Outcome:
    try:
        async with asyncio.timeout(GIVE_UP_S):
            reply: Reply = await client.send(ask.data)
    except (OSError, TimeoutError):
        now = time.perf_counter()
        return Outcome(ask.kind, 0, now, now - due, 0.0, False, b"")
    now = time.perf_counter()
    code = next((c for c in (b"queue_full", b"queue_timeout") if c in reply.body), b"") if reply.status != 200 else b""
    return Outcome(ask.kind, reply.status, now, now - due, reply.seconds, b"retry-after" in reply.headers, code)


def summary(outcomes: list[Outcome], counted_from: float, counted_to: float) -> dict[str, Any]:
    """Rates of a window, and quantiles of those answered; by kind, too.

    Rates are of answers that came between these moments: a queue that is filled at first and emptied at the end would
    be counted as what the service does in a second.
    """
    answered = [o for o in outcomes if o.status == 200]
    in_time = [o for o in answered if o.seconds <= DEADLINE_S]
    counted = [o for o in in_time if counted_from <= o.came < counted_to]
    seconds = counted_to - counted_from
    refused = [o for o in outcomes if o.status in (429, 503)]
    at_once = [o for o in refused if o.code != b"queue_timeout"]
    let_in = len(outcomes) - len(at_once)
    found: dict[str, Any] = {
        "goodput_per_s": len(counted) / seconds,
        "answered": len(answered),
        "refused": len(at_once),
        "refused_after_waiting": len(refused) - len(at_once),
        "failed": len(outcomes) - len(answered) - len(refused),
        "let_in_and_in_time": len(in_time) / let_in if let_in else 1.0,
        "ms_p50": ms([o.seconds for o in answered], 0.5),
        "ms_p99": ms([o.seconds for o in answered], 0.99),
        **refusals([1000 * o.refused_s for o in at_once]),
        "refusals_with_retry_after": sum(o.retry_after for o in refused) / len(refused) if refused else 1.0,
    }
    found["worked_per_s"] = sum(o.kind != "repeat" for o in counted) / seconds
    for kind in sorted({o.kind for o in outcomes}):
        found[f"{kind}_ms_p50"] = ms([o.seconds for o in answered if o.kind == kind], 0.5)
    return found


def refusals(ms: list[float]) -> dict[str, Any]:
    """How long a refusal took; None where there was none."""
    found: dict[str, Any] = {}
    for name, share in (("refusal_ms_p50", 0.5), ("refusal_ms_p99", 0.99)):
        found |= with_interval(name, ms, of=least_of(share)) if ms else {name: None}
    return found


def worst(points: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """The greatest of some windows' figures, with its interval."""
    point = max(points, key=lambda point: point[key], default=None)
    return {name: point[name] for name in (key, f"{key}_interval")} if point else {key: None}


def promises(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the promises: over all windows past capacity, each by its worst."""
    past = [point for point in curve if point["factor"] > 1]
    goodput = [point["goodput_per_s"] for point in curve]
    # Past capacity it goes on rising, by what comes from the cache: a peak beyond is no promise to the rates before it.
    kept = [now / max(goodput[: i + 1]) for i, now in enumerate(goodput)]
    worked = [point["worked_per_s"] for point in curve]
    refusing = [point for point in past if point["refusal_ms_p99"] is not None]
    return {
        "peak_goodput_per_s": max(goodput),
        "goodput_past_capacity": min(share for share, point in zip(kept, curve, strict=True) if point in past),
        "peak_worked_per_s": max(worked),
        "worked_at": {f"{point['factor']:g}": point["worked_per_s"] / max(worked) for point in past},
        **worst(refusing, "refusal_ms_p50"),
        **worst(refusing, "refusal_ms_p99"),
        "refusals_with_retry_after": min(point["refusals_with_retry_after"] for point in past),
        "let_in_and_in_time": min(point["let_in_and_in_time"] for point in past),
        "failed": sum(point["failed"] for point in curve),
        "rss_growth_past_capacity": past[-1]["rss_mib"] / past[0]["rss_mib"] - 1,
        "client_cpu_share": max(point["client_cpu_share"] for point in curve),
        "service_cpu_share_at": {f"{point['factor']:g}": point.get("service_cpu_share") for point in curve},
        "engine_cpu_share_at": {f"{point['factor']:g}": point.get("engine_cpu_share") for point in curve},
    }


def ms(seconds: list[float], share: float) -> float | None:
    found = quantile(seconds, share)
    return None if found is None else 1000 * found


def rss_mib(pid: int) -> float:
    """Resident memory of a process and all that it has started."""
    root = psutil.Process(pid)
    return sum(p.memory_info().rss for p in (root, *root.children(recursive=True))) / 2**20


if __name__ == "__main__":
    main()
