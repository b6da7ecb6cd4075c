"""Half an hour at 0.8 of capacity with clients as they are, and whether anything grows or any answer is wrong.

Beside the mixed traffic of `bench/load.py` (open loop) there are clients that vanish in the middle of a request,
streams that are cancelled after their first events, readers that take an answer in small sips, and bursts of three
seconds at three times the capacity every half minute. Every five seconds it is noted what the process tree holds:
resident memory, file descriptors, threads. Slopes are Theil-Sen's over minutes, with 95 % intervals; the first tenth
warms up. Something grows if its interval lies above nothing and it gains more than 0.5 % an hour. The index takes
documents all the while, under the same few ids: what it holds has no reason to grow.

Slots of segment sums in the worker and blocks of the key-value cache go up and down with the requests that run, which
says nothing about leaks. So every two minutes the traffic rests until all is answered and embedded, and what is still
held then is noted: any slot or block is one that nobody gave back.

One of fifty answers is kept and asked for again at the end, of a fresh server without a cache: vectors must agree, and
the score of a search's first hit must be the cosine of what that server makes of query and document.

    python bench/soak.py --minutes 30 --json bench/results/soak.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import random
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from bench._arrivals import poisson, quantile, slope
from bench._client import Client
from bench._server import Server, served
from bench._shared import arguments, report
from bench._traffic import Traffic
from bench.load import INDEXED, SETTINGS, closed_loop, ingest, prepare

SHARE = 0.8  # of capacity
ODD = {"vanishing": 0.05, "cancelled_stream": 0.03, "slow_reader": 0.02}  # of all requests
BURST_EVERY_S, BURST_S, BURST = 30.0, 3.0, 3.0
SAMPLE_S = 5.0
REST_EVERY_S, REST_S = 120.0, 180.0  # the latter at most, until nothing runs: documents may wait to be embedded
ASKED_AT_ONCE = 16  # while recomputing
KEPT = 50  # one answer of so many is recomputed
GROWS = 0.005  # of what is held, in an hour
EXPECTED = ("200", "429")
KINDS = ("usual", *ODD)
GROWING = ("rss_mib", "descriptors", "threads")
GIVEN_BACK = ("slots", "kv_blocks_share")
KEPT_GAUGES = ("rss_mib", "rss_server_mib", "descriptors", "slots")  # minute by minute, to look for causes


@dataclass
class Seen:
    """What became of the requests, and what the process tree held."""

    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    vectors: list[tuple[dict[str, Any], list[float]]] = field(default_factory=list)  # body of /embed, and its answer
    scores: list[tuple[str, str, float]] = field(default_factory=list)  # query, text of the first hit, its score
    held: list[dict[str, float]] = field(default_factory=list)
    rests: list[dict[str, float]] = field(default_factory=list)  # the same, while nothing ran
    running: set[asyncio.Task[None]] = field(default_factory=set)


def main() -> None:
    options = arguments(__doc__ or "", minutes=30.0, seed=1)
    seen = Seen()
    with served(**SETTINGS) as server:
        figures = asyncio.run(soak(server, options, seen))
    with served(**SETTINGS, cache=False) as server:
        figures |= recomputed(server, seen)
    report(figures, options.json)


async def soak(server: Server, options: Any, seen: Seen) -> dict[str, Any]:
    client, rng = Client(server.port), random.Random(options.seed)
    traffic = Traffic(client, options.seed, ids=INDEXED)
    await prepare(server, client, traffic)
    capacity = await closed_loop(client, traffic, 10)
    print(f"capacity {capacity:.1f}/s", file=sys.stderr, flush=True)
    awake = asyncio.Event()
    awake.set()
    background = [asyncio.create_task(ingest(client, traffic, awake)), asyncio.create_task(watch(server, seen))]
    end, rest = time.perf_counter() + 60 * options.minutes, time.perf_counter() + REST_EVERY_S
    while time.perf_counter() < end:
        calm = BURST_EVERY_S - BURST_S
        await stretch(server, client, traffic, seen, rng, SHARE * capacity, calm)
        await stretch(server, client, traffic, seen, rng, BURST * capacity, BURST_S)
        if time.perf_counter() > rest:
            rest += REST_EVERY_S
            awake.clear()
            seen.rests.append(await at_rest(server, seen))
            awake.set()
    background[0].cancel()
    seen.rests.append(await at_rest(server, seen))
    background[1].cancel()
    client.close()
    warm = seen.held[len(seen.held) // 10 :]
    figures: dict[str, Any] = {"minutes": options.minutes, "capacity_per_s": capacity, **seen.outcomes}
    figures["each_minute"] = {gauge: averages(gauge, seen.held)[1] for gauge in KEPT_GAUGES}
    for gauge in GROWING:
        figures |= growth(gauge, warm)
    for gauge in GIVEN_BACK:
        figures[f"{gauge}_most"] = max(sample[gauge] for sample in seen.held)
        figures[f"{gauge}_at_rest_most"] = max(sample[gauge] for sample in seen.rests)
    return figures | {
        "growing": sum(grows(gauge, figures) for gauge in GROWING),
        "rests": len(seen.rests),
        "other_statuses": sum(
            count for name, count in seen.outcomes.items() if name.startswith("status_") and name[7:] not in EXPECTED
        ),
        "failed": sum(seen.outcomes[f"{kind}_failed"] for kind in KINDS),
        "ms_p50": 1000 * (quantile(seen.seconds, 0.5) or 0),
        "ms_p99": 1000 * (quantile(seen.seconds, 0.99) or 0),
    }


async def at_rest(server: Server, seen: Seen) -> dict[str, float]:
    """What is held once nothing runs any more, or after `REST_S` if something goes on that nobody waits for."""
    await asyncio.gather(*seen.running)
    end = time.perf_counter() + REST_S
    while True:
        await asyncio.sleep(1)
        found = await asyncio.to_thread(held, server)
        if time.perf_counter() > end or not any(found[gauge] for gauge in GIVEN_BACK):
            return found


async def stretch(
    server: Server, client: Client, traffic: Traffic, seen: Seen, rng: random.Random, rate: float, seconds: float
) -> None:
    """Requests at a rate for a while; nobody waits for their answers."""
    start = time.perf_counter()
    for moment in poisson(rate, seconds, rng):
        if (wait := start + moment - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        kind = rng.choices([*ODD, "usual"], [*ODD.values(), 1 - sum(ODD.values())])[0]
        match kind:
            case "vanishing":
                work = vanishing(client, traffic, rng)
            case "cancelled_stream":
                work = cancelled_stream(server, traffic)
            case "slow_reader":
                work = slow_reader(server, traffic)
            case _:
                work = usual(client, traffic, seen)
        task = asyncio.create_task(counted(kind, work, seen))
        seen.running.add(task)
        task.add_done_callback(seen.running.discard)
    await asyncio.sleep(max(0.0, start + seconds - time.perf_counter()))


async def counted(kind: str, work: Any, seen: Seen) -> None:
    try:
        async with asyncio.timeout(60):
            await work
        seen.outcomes[f"{kind}_ended"] += 1
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        seen.outcomes[f"{kind}_failed"] += 1


async def usual(client: Client, traffic: Traffic, seen: Seen) -> None:
    ask, begin = traffic.next(), time.perf_counter()
    reply = await client.send(ask.data)
    seen.outcomes[f"status_{reply.status}"] += 1
    if reply.status != 200:
        return
    seen.seconds.append(time.perf_counter() - begin)
    if seen.outcomes["status_200"] % KEPT:
        return
    if ask.path == "/embed":
        seen.vectors.append((ask.body, reply.json()["data"][0]["embedding"]))
    elif hits := reply.json()["hits"]:
        seen.scores.append((ask.body["query"], hits[0]["text"], hits[0]["score"]))


async def vanishing(client: Client, traffic: Traffic, rng: random.Random) -> None:
    """Closes the connection while the server is at work."""
    with suppress(TimeoutError):
        async with asyncio.timeout(rng.uniform(0.0, 0.3)):
            await client.send(traffic.of("query").data)


async def cancelled_stream(server: Server, traffic: Traffic) -> None:
    """Reads the first events and leaves."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(traffic.of("query", stream=True).data)
    await reader.read(300)
    writer.transport.abort()


async def slow_reader(server: Server, traffic: Traffic) -> None:
    """Takes some seconds over an answer, out of a buffer as small as the system allows."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=512)
    writer.write(traffic.of("query", explain=True).data)
    for number in range(20):
        sip = await reader.read(256)
        if not sip or (not number and b" 200 " not in sip):  # a refusal is over after few sips, and no more comes
            break
        await asyncio.sleep(0.2)
    writer.close()


async def watch(server: Server, seen: Seen) -> None:
    while True:
        with suppress(OSError):
            seen.held.append(await asyncio.to_thread(held, server))
        await asyncio.sleep(SAMPLE_S)


def held(server: Server) -> dict[str, float]:
    """What the server's processes hold now."""
    root = psutil.Process(server.pid)
    found = dict.fromkeys(("rss_mib", "rss_server_mib", "descriptors", "threads"), 0.0)
    found["seconds"] = time.perf_counter()
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            memory = process.memory_info().rss / 2**20
            found["rss_mib"] += memory
            found["rss_server_mib"] += memory * (process == root)
            found["descriptors"] += process.num_fds()
            found["threads"] += process.num_threads()
    found["slots"] = server.metric("grace_engine_slots")
    found["kv_blocks_share"] = server.metric("vllm:kv_cache_usage_perc")
    return found


def averages(gauge: str, samples: list[dict[str, float]]) -> tuple[list[float], list[float]]:
    """Middles, in seconds, and means of each minute (of each tenth of the time, if that is less)."""
    start, total = samples[0]["seconds"], samples[-1]["seconds"] - samples[0]["seconds"]
    width = min(60.0, max(total / 10, SAMPLE_S))
    minutes: dict[int, list[float]] = {}
    for sample in samples:
        minutes.setdefault(int((sample["seconds"] - start) // width), []).append(sample[gauge])
    return [width * (number + 0.5) for number in minutes], [round(float(np.mean(v)), 2) for v in minutes.values()]


def growth(gauge: str, samples: list[dict[str, float]]) -> dict[str, Any]:
    """Slope over averages of a minute, and first and last of these."""
    at, means = averages(gauge, samples)
    found = slope(at, means)
    return {
        f"{gauge}_per_hour": found.per_hour,
        f"{gauge}_per_hour_interval": [found.low, found.high],
        f"{gauge}_first": means[0],
        f"{gauge}_last": means[-1],
    }


def grows(gauge: str, figures: dict[str, Any]) -> bool:
    """Whether it grew beyond chance and by more than is worth a word."""
    middle = (figures[f"{gauge}_first"] + figures[f"{gauge}_last"]) / 2
    return bool(
        figures[f"{gauge}_per_hour_interval"][0] > 0 and figures[f"{gauge}_per_hour"] > GROWS * max(middle, 1e-9)
    )


def recomputed(server: Server, seen: Seen) -> dict[str, Any]:
    """The kept answers against those of a fresh server."""

    def vector(body: dict[str, Any]) -> Any:
        return np.asarray(server.post("/embed", body)["data"][0]["embedding"])

    def cosine(kept: tuple[dict[str, Any], list[float]]) -> float:
        return float(vector(kept[0]) @ np.asarray(kept[1]))

    def off_by(kept: tuple[str, str, float]) -> float:
        query, text, score = kept
        return abs(score - float(vector({"input": query, "role": "query"}) @ vector({"input": text})))

    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        cosines, off = list(pool.map(cosine, seen.vectors)), list(pool.map(off_by, seen.scores))
    return {
        "recomputed": len(cosines),
        "recomputed_cosine_least": min(cosines, default=None),
        "scores_recomputed": len(off),
        "recomputed_score_off_most": max(off, default=None),
    }


if __name__ == "__main__":
    main()
