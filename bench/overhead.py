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
  stages         where the time of one request goes, by the service's own clocks (`/metrics`), at the median

Both have as much memory for keys and values. vLLM's blocks on a CPU are of 128 tokens, so that it runs the instruction
anew for every text; ours are of 16. `--block 128` gives the service blocks as large: what is left is the service alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench._client import Client
from bench._server import Server, bundled, served
from bench._shared import WORDS, arguments, model_100m, rates, ratios, report, with_interval
from bench.one_pass import generate, start_plain, stop

CALLERS = 64
KV_GIB = 2.0  # of both arms: 64 texts of 300 words, in blocks of either size, take 1.3 of it on the model of 100 M
SETTINGS = {
    "max_inputs": 1024,
    "max_samples": 1,
    "max_running_requests": 1024,
    "max_num_seqs": CALLERS,
    "kv_cache_gib": KV_GIB,
}
REST_S = 0.3  # idle threads of the arm before spin for a while, and would be counted against the next one
ALIKE = 0.02  # sums in another order can let a token in a thousand be another one, and a rationale end elsewhere
MODEL = "steps of the model"
Arms = dict[str, Callable[[list[str]], Awaitable[int]]]  # give how many tokens they wrote


def main() -> None:
    options = arguments(__doc__ or "", rounds=11, singles=40, callers=CALLERS, batch=1000, large=0, block=0)
    if options.large:  # a model of 100 M parameters instead, where the model is most of the time
        with model_100m() as folder:
            figures = run(folder, options)
    else:
        figures = run(bundled(), options)
    report(figures, options.json)


def run(folder: Path, options: Any) -> dict[str, Any]:
    own = {"engine_args": json.dumps({"block_size": options.block})} if options.block else {}
    with served(**SETTINGS, **own, model=folder) as server:
        return asyncio.run(measure(server, folder, options))


async def measure(server: Server, folder: Path, options: Any) -> dict[str, Any]:
    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

    checkpoint = Checkpoint.load(folder)
    prompter = Prompter(checkpoint)
    plain, client = await start_plain(checkpoint, prompter, CALLERS, KV_GIB), Client(server.port)

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
    figures |= with_interval("one_more_ms", more)
    figures |= with_interval("one_plain_ms", [1000 * s for s in seconds["plain"]])
    figures |= with_interval("one_http_ms", [1000 * s for s in seconds["http"]])
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
    return with_interval(f"{name}_overhead", more) | rates(seconds, count, f"{name}_")


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
        **with_interval("between_pieces_ms", [1000 * s for s in between]),
        **with_interval("vector_after_last_piece_steps", [s / statistics.median(between) for s in after]),
    }


async def stages(server: Server, client: Client, count: int) -> dict[str, Any]:
    """Milliseconds of one request at each stage, at the median. Those of each request add up to all of its time."""
    ms: dict[str, list[float]] = {}
    for number in range(count):
        (text,) = texts(1, 10, 20_000 + number)
        before = await asyncio.to_thread(clocks, server)
        start = time.perf_counter()
        reply = await client.send(client.request("/embed", {"input": text}))
        took = time.perf_counter() - start
        assert reply.status == 200, reply.body
        after = await asyncio.to_thread(clocks, server)
        stages = by_stage(took, {name: after[name] - before[name] for name in after})
        stages["all but the model"] = took - stages[MODEL]
        for name, seconds in stages.items():
            ms.setdefault(name, []).append(1000 * seconds)
    found: dict[str, Any] = {}
    for name, values in ms.items():
        found |= with_interval(name, values)
    return {"stages_ms": found}


def by_stage(client: float, clock: dict[str, float]) -> dict[str, float]:
    """Seconds at each stage, of those that each clock says."""
    return {
        "client and socket": client - clock["service"],
        "parsing, prompt, cache, answer": clock["service"] - clock["queue"] - clock["engine"] - clock["pool"],
        "queue of the service": clock["queue"],
        "between service and engine": clock["engine"] - clock["waiting"] - clock["model"],
        "queue of the engine": clock["waiting"],
        MODEL: clock["model"],
        "vector of the states": clock["pool"],
    }


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
