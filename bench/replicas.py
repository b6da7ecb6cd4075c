"""Two replicas behind one ingress against one, on Ray Serve.

A replica here is slowed to what does not depend on this machine: its engine sleeps through each text (`--text-ms`), and
holds `--places` texts at once, so it does places / text-ms and no more, as a GPU with a full batch does. What is
measured is whether ingress, router and admission keep two of them as busy as one: all is real but the model.
Each arm is a deployment of its own, in turns; within one, more texts are in flight than two replicas hold.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import os
import tempfile
import time
from functools import partial
from typing import Any

import httpx

from bench._shared import arguments, model_of_no_size, ratios, report, texts, with_interval
from grace.engines.fake import FakeEngine
from grace_server.settings import Settings
from tests.support import replicas

ARMS = {"one": 1, "two": 2}


def main() -> None:
    options = arguments(__doc__ or "", texts=200, rounds=3, text_ms=500, places=4)
    with model_of_no_size() as model, tempfile.TemporaryDirectory() as data, replicas.cluster(cpus=2) as address:
        rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for number in range(options.rounds):
            for arm in sorted(ARMS, reverse=bool(number % 2)):
                deploy(model, Path(data), options, ARMS[arm])
                batch = texts(options.texts, seed=10 * number + ARMS[arm])
                rates[arm].append(asyncio.run(rate(address, batch, in_flight=4 * options.places)))
    report(
        {
            **with_interval("two_over_one", ratios(rates["two"], rates["one"])),
            **with_interval("one_texts_per_s", rates["one"]),
            **with_interval("two_texts_per_s", rates["two"]),
            "one_replica_could_texts_per_s": 1000 * options.places / options.text_ms,
            "text_ms": options.text_ms,
            "places": options.places,
            "texts": options.texts,
            "rounds": options.rounds,
            "cores": os.cpu_count(),
        },
        options.json,
    )


def deploy(model: Path, data: Path, options: Any, count: int) -> None:
    """So many replicas, all of them up."""
    from ray import serve

    from grace_server.replicas.application import application

    settings = Settings(
        model=str(model),
        data_dir=data,
        engine="transformers",
        cache=False,
        max_running_requests=options.places,
        ray_min_replicas=count,
        ray_max_replicas=count,
        ray_cpus=0.1,
    )
    serve.run(application(settings, make_engine=partial(paced, options.text_ms / 1000)), name="grace")


def paced(seconds: float, settings: Settings, checkpoint: Any, prompter: Any) -> FakeEngine:
    """An engine that takes so long for every text, and as many at once as it is given."""
    return FakeEngine(prompter, seconds_per_text=seconds)


async def rate(address: str, batch: list[str], *, in_flight: int) -> float:
    """Texts per second, once the doors are open and every replica has been seen."""
    turn = asyncio.Semaphore(in_flight)
    async with httpx.AsyncClient(
        base_url=address, timeout=600, limits=httpx.Limits(max_connections=in_flight)
    ) as client:

        async def ask(text: str) -> None:
            async with turn:
                (await client.post("/embed", json={"input": text})).raise_for_status()

        while (await client.get("/readyz")).status_code != 200:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.1)
        await asyncio.sleep(2)  # the ingress counts the replicas every second
        await asyncio.gather(*(ask(f"warm {text}") for text in batch[:in_flight]))
        begin = time.perf_counter()
        await asyncio.gather(*map(ask, batch))
        return len(batch) / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
