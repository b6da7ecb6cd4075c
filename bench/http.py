"""The HTTP service against the offline engine, and the cache.

Both arms represent the same texts, 64 at a time: one through `POST /embed` of a real server, one request a text; one
through `Grace.encode` in this process. The cache is timed by asking for one text again and again.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import time
from typing import Any

import httpx

from bench._server import served
from bench._shared import arguments, least_of, model_100m, rates, ratios, report, texts, with_interval

KV_GIB = 0.5


def main() -> None:
    options = arguments(__doc__ or "", texts=64, rounds=5, tokens=32, repeats=200)
    with model_100m() as folder, served(model=folder, kv_cache_gib=KV_GIB, dtype="float32", max_num_seqs=64) as server:
        figures = measure(folder, server.address, options.texts, options.rounds, options.tokens)
        figures |= asyncio.run(cached(server.address, options.repeats))
    report(figures, options.json)


def measure(folder: Path, address: str, count: int, rounds: int, tokens: int) -> dict[str, Any]:
    from grace import Grace

    seconds: dict[str, list[float]] = {"offline": [], "http": []}
    with Grace.load(folder, dtype="float32", max_num_seqs=64, kv_cache_gib=KV_GIB) as grace:
        for number in range(rounds + 1):
            if number == 1:  # the first round warms up
                seconds = {arm: [] for arm in seconds}
            batch = texts(count, seed=number)
            for arm in sorted(seconds, reverse=bool(number % 2)):
                start = time.perf_counter()
                if arm == "http":
                    asyncio.run(embed_all(address, batch, tokens))
                else:
                    grace.encode(batch, max_rationale_tokens=tokens, show_progress=False)
                seconds[arm].append(time.perf_counter() - start)
    return {
        **with_interval("http_vs_offline", ratios(seconds["offline"], seconds["http"])),
        **rates(seconds, count),
        "concurrent_requests": count,
        "rounds": rounds,
        "rationale_tokens": tokens,
    }


async def embed_all(address: str, batch: list[str], tokens: int) -> None:
    limits = httpx.Limits(max_connections=len(batch))
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits) as client:
        bodies = [{"input": text, "max_rationale_tokens": tokens} for text in batch]
        for answer in await asyncio.gather(*(client.post("/embed", json=body) for body in bodies)):
            answer.raise_for_status()


async def cached(address: str, repeats: int) -> dict[str, Any]:
    body = {"input": "A text that is asked for again and again."}
    times = []
    async with httpx.AsyncClient(base_url=address, timeout=600) as client:
        await client.post("/embed", json=body)
        for _ in range(repeats):
            start = time.perf_counter()
            answer = await client.post("/embed", json=body)
            times.append(time.perf_counter() - start)
            assert answer.json()["data"][0]["cached"]
    ms = [1000 * s for s in times]
    return with_interval("cached_ms_p50", ms) | with_interval("cached_ms_p99", ms, of=least_of(0.99))


if __name__ == "__main__":
    main()
