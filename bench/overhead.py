"""What a request costs beyond the model: `grace-serve` against plain vLLM, which generates for the same ids.

The plain arm is vLLM's engine in this process with vLLM's own worker: it pools nothing, speaks no HTTP, decodes no
token. The other is `POST /embed` of a real server as it comes, cache on, answered in full. Rounds take turns; every
text is new to both. The bundled model ends its rationales by itself, so both write the same tokens; whatever the
service adds weighs most beside a model this small.

  one            one request at a time: milliseconds more than plain, at the median (promise: 8)
  short, long    64 callers at once, texts of 10 or 300 words: seconds more, as a share of plain (promise: 0.05)
  batch          1,000 texts of 10 words in one request, against 1,000 generated at once
  vector         from the last piece of a stream to its vector, in times between two pieces: one of them is the step of
                 the stop token, which is no piece (promise: within one step after the last token, so two)
  stages         where the time of one request goes, by the service's own clocks (`/metrics`), means
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench._client import Client
from bench._server import Server, bundled, served
from bench._shared import WORDS, arguments, model_100m, ratios, report, with_interval
from bench.one_pass import generate, start_plain, stop

SETTINGS = {"max_inputs": 1024, "max_samples": 1, "max_running_requests": 1024, "max_num_seqs": 64}
REST_S = 0.3  # idle threads of the arm before spin for a while, and would be counted against the next one
ALIKE = 0.02  # sums in another order can let a token in a thousand be another one, and a rationale end elsewhere
Arms = dict[str, Callable[[list[str]], Awaitable[int]]]  # give how many tokens they wrote


def main() -> None:
    options = arguments(__doc__ or "", rounds=11, singles=40, callers=64, batch=1000, large=0)
    if options.large:  # a model of 100 M parameters instead, where the model is most of the time
        with model_100m() as folder:
            figures = run(folder, options)
    else:
        figures = run(bundled(), options)
    report(figures, options.json)


def run(folder: Path, options: Any) -> dict[str, Any]:
    with served(**SETTINGS, model=folder) as server:
        return asyncio.run(measure(server, folder, options))


async def measure(server: Server, folder: Path, options: Any) -> dict[str, Any]:
    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

    checkpoint = Checkpoint.load(folder)
    prompter = Prompter(checkpoint)
    plain, client = await start_plain(checkpoint, prompter, 64), Client(server.port)

    async def generated(texts: list[str]) -> int:
        return sum(map(len, await generate(plain, prompter, [prompter.job(text) for text in texts])))

    async def asked(body: dict[str, Any]) -> int:
        reply = await client.send(client.request("/embed", body))
        assert reply.status == 200, reply.body
        return int(reply.json()["usage"]["completion_tokens"])

    async def asked_singly(texts: list[str]) -> int:
        return sum(await asyncio.gather(*(asked({"input": text}) for text in texts)))

    async def asked_together(texts: list[str]) -> int:
        return await asked({"input": texts})

    each: Arms = {"plain": generated, "http": asked_singly}
    figures: dict[str, Any] = {"model": folder.name if not options.large else "random, 100 M parameters"}
    seconds = await in_turns(each, options.singles, lambda n: texts(1, 10, n))
    more = [1000 * (b - a) for a, b in zip(seconds["plain"], seconds["http"], strict=True)]
    figures |= with_interval("one_more_ms", more) | {"one_plain_ms": 1000 * statistics.median(seconds["plain"])}
    figures |= await vector_after_last_token(server, options.singles)
    figures |= await stages(server, client, options.singles)
    count = options.callers
    for name, words in (("short", 10), ("long", 300)):
        seconds = await in_turns(each, options.rounds, lambda n, w=words: texts(count, w, n))
        figures |= saturated(name, seconds, count)
    together: Arms = {"plain": generated, "http": asked_together}
    if options.batch:
        seconds = await in_turns(together, min(options.rounds, 5), lambda n: texts(options.batch, 10, n))
        figures |= saturated("batch", seconds, options.batch)
    client.close()
    stop(plain)
    return figures


async def in_turns(arms: Arms, rounds: int, batch: Callable[[int], list[str]]) -> dict[str, list[float]]:
    """Seconds of each arm and round; one round before warms up.

    Raises:
        RuntimeError: the arms did not write as many tokens, so that their times say nothing.
    """
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    tokens = dict.fromkeys(arms, 0)
    for number in range(rounds + 1):
        for arm in sorted(arms, reverse=bool(number % 2)):
            asked = batch(number)
            await asyncio.sleep(REST_S)
            start = time.perf_counter()
            tokens[arm] += await arms[arm](asked)
            if number:
                seconds[arm].append(time.perf_counter() - start)
    if max(tokens.values()) > (1 + ALIKE) * min(tokens.values()):
        raise RuntimeError(f"tokens written: {tokens}")
    return seconds


def saturated(name: str, seconds: dict[str, list[float]], count: int) -> dict[str, Any]:
    more = [x - 1 for x in ratios(seconds["http"], seconds["plain"])]
    return with_interval(f"{name}_overhead", more) | {
        f"{name}_{arm}_texts_per_s": count / statistics.median(times) for arm, times in seconds.items()
    }


async def vector_after_last_token(server: Server, count: int) -> dict[str, Any]:
    """Milliseconds between the last piece of a streamed rationale and its vector, and between two pieces."""
    after, between = [], []
    for number in range(count):
        (text,) = texts(1, 10, 10_000 + number)
        moments = await pieces(server, text)
        if len(moments) < 2:  # what a random model writes may be no text, and no piece
            continue
        between += [b - a for a, b in itertools.pairwise(moments[:-1])]
        after.append(moments[-1] - moments[-2])
    if not after:
        return {}
    return {
        **with_interval("vector_after_last_piece_ms", [1000 * s for s in after]),
        "between_pieces_ms": 1000 * statistics.median(between),
        **with_interval("vector_after_last_piece_steps", [s / statistics.median(between) for s in after]),
    }


async def stages(server: Server, client: Client, count: int) -> dict[str, Any]:
    """Milliseconds of one request at each stage. What follows adds up: client, service, engine, model."""
    seconds: dict[str, float] = {"client": 0.0}
    before = await asyncio.to_thread(clocks, server)
    for number in range(count):
        (text,) = texts(1, 10, 20_000 + number)
        start = time.perf_counter()
        reply = await client.send(client.request("/embed", {"input": text}))
        seconds["client"] += time.perf_counter() - start
        assert reply.status == 200, reply.body
    after = await asyncio.to_thread(clocks, server)
    seconds |= {name: after[name] - before[name] for name in after}
    inside = seconds["service"] - seconds["queue"] - seconds["engine"] - seconds["pool"]
    found = {
        "client and socket": seconds["client"] - seconds["service"],
        "parsing, prompt, cache, answer": inside,
        "queue of the service": seconds["queue"],
        "between service and engine": seconds["engine"] - seconds["waiting"] - seconds["model"],
        "queue of the engine": seconds["waiting"],
        "steps of the model": seconds["model"],
        "vector of the states": seconds["pool"],
    }
    return {"stages_ms": {name: 1000 * value / count for name, value in found.items()}}


def clocks(server: Server) -> dict[str, float]:
    """Seconds that requests have spent so far."""
    return {
        "service": server.metric("grace_request_seconds_sum", 'route="/embed"'),
        "queue": server.metric("grace_queue_seconds_sum"),
        "engine": server.metric("grace_generate_seconds_sum"),
        "waiting": server.metric("vllm:request_queue_time_seconds_sum"),
        "model": server.metric("vllm:request_inference_time_seconds_sum"),
        "pool": server.metric("grace_pool_seconds_sum"),
    }


async def pieces(server: Server, text: str) -> list[float]:
    """When each event of a stream came, up to the vector."""
    request = Client(server.port).request("/embed", {"input": text, "stream": True})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=2**20)
    writer.write(request)
    moments: list[float] = []
    while line := await reader.readline():
        if line.startswith((b"event: rationale", b"event: embedding")):
            moments.append(time.perf_counter())
        if line.startswith(b"event: embedding"):
            break
    writer.close()
    return moments


def texts(count: int, words: int, seed: int) -> list[str]:
    rng = random.Random(f"{seed} {words} {count}")
    return [f"{rng.random():.9f} " + " ".join(rng.choices(WORDS, k=words)) + "." for _ in range(count)]


if __name__ == "__main__":
    main()
