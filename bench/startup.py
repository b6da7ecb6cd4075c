"""From nothing to the first answer: seconds until `grace-serve` is ready, and what its first request takes.

A fresh process with the bundled model and settings as they come, on an empty data folder. "Ready" is `/readyz`; the
first request goes out right after it, so whatever was not warmed up is in its time. Later ones stand beside it. The
operating system's file cache is warm from the second round on; the first is not counted.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import statistics
import time

from bench._client import Client
from bench._server import Server, served
from bench._shared import arguments, report, with_interval

LATER = 20


def main() -> None:
    options = arguments(__doc__ or "", rounds=3)
    ready, first, later = [], [], []
    for number in range(options.rounds + 1):
        with served() as server:
            times = asyncio.run(answers(server))
        if number:
            ready.append(server.ready - server.started)
            first.append(times[0])
            later.append(statistics.median(times[1:]))
    report(
        with_interval("ready_s", ready)
        | with_interval("first_answer_ms", first)
        | with_interval("later_answer_ms", later)
        | {"rounds": options.rounds},
        options.json,
    )


async def answers(server: Server) -> list[float]:
    """Milliseconds of a first request, and of others after it."""
    client, times = Client(server.port), []
    for number in range(1 + LATER):
        request = client.request("/embed", {"input": f"{number}. The harbour froze in the winter of 1432."})
        start = time.perf_counter()
        reply = await client.send(request)
        times.append(1000 * (time.perf_counter() - start))
        assert reply.status == 200, reply.body
    client.close()
    return times


if __name__ == "__main__":
    main()
