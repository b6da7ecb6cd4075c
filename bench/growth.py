"""How cost grows: with the length of the text, of the rationale, with the batch, and with the corpus.

The bundled model; one thing varies, the others stay at their middle. Three arms in turns: our one pass as it comes,
plain vLLM that generates for the same ids and pools nothing, and the two-model pipeline of `bench/one_pass.py`. Seconds
of a whole batch as milliseconds a text. Rationales never end by themselves here, so that each is as long as its budget.
The corpus is encoded in mode `direct`, as an index would be filled, by ours alone: a text must not cost more for being
one of many. How search grows with its rows is in `bench/search.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from bench._server import bundled
from bench._shared import WORDS, arguments, interval, report
from bench.one_pass import encode_again, generate, load_reference, start_plain, stop

ARMS = ("one_pass", "plain", "two_model")
MIDDLE: dict[str, Any] = {"words": 40, "tokens": 24, "batch": 64}
INPUT_WORDS = (10, 40, 160, 320)
RATIONALE_TOKENS = (1, 8, 24, 48)
BATCHES = (1, 4, 16, 64, 256)
CORPORA = (256, 1024, 2048)
KV_GIB = 2.0  # of both of vLLM's arms
AXES = {"words": "input_words", "tokens": "rationale_tokens", "batch": "batch"}


def main() -> None:
    options = arguments(__doc__ or "", rounds=3)
    report(asyncio.run(measure(options.rounds)), options.json)


async def measure(rounds: int) -> dict[str, Any]:
    from grace import Grace
    from grace.checkpoint import Checkpoint
    from grace.engines.vllm import VllmEngine, VllmOptions
    from grace.prompt import Prompter

    folder = bundled()
    checkpoint = Checkpoint.load(folder)
    prompter = Prompter(checkpoint)
    prompter.stop_ids = (prompter.tokenizer.convert_tokens_to_ids("<|im_start|>"),)  # it never writes this one
    plain, reference = await start_plain(checkpoint, prompter, 64, KV_GIB), load_reference(folder)
    options = VllmOptions(max_num_seqs=64, kv_cache_gib=KV_GIB)
    with Grace(checkpoint, prompter, lambda: VllmEngine(checkpoint, prompter, options)) as grace:

        async def encode(arm: str, asked: list[str], tokens: int) -> None:
            jobs = [prompter.job(text, max_rationale_tokens=tokens) for text in asked] if arm != "one_pass" else []
            match arm:
                case "one_pass":
                    await asyncio.to_thread(grace.encode, asked, max_rationale_tokens=tokens, show_progress=False)
                case "plain":
                    await generate(plain, prompter, jobs)
                case "two_model":
                    encode_again(reference, jobs, await generate(plain, prompter, jobs))

        async def index(arm: str, asked: list[str], tokens: int) -> None:
            await asyncio.to_thread(grace.encode, asked, mode="direct", show_progress=False)

        for arm in ARMS:
            await encode(arm, texts(MIDDLE["batch"], MIDDLE["words"], "warm"), MIDDLE["tokens"])
        figures: dict[str, Any] = {"rounds": rounds, "middle": MIDDLE}
        for axis, values in (("words", INPUT_WORDS), ("tokens", RATIONALE_TOKENS), ("batch", BATCHES)):
            points = [MIDDLE | {axis: value} for value in values]
            figures[AXES[axis]] = await along(axis, points, encode, ARMS, rounds)
        rows = [{"words": 20, "tokens": 1, "batch": count} for count in CORPORA]
        figures["corpus"] = await along("batch", rows, index, ARMS[:1], rounds)
    stop(plain)
    return figures


async def along(
    axis: str,
    points: list[dict[str, int]],
    work: Callable[[str, list[str], int], Awaitable[None]],
    arms: tuple[str, ...],
    rounds: int,
) -> dict[str, list[dict[str, Any]]]:
    """Milliseconds a text of each arm at each point, which take turns."""
    found: dict[str, dict[int, list[float]]] = {arm: {point[axis]: [] for point in points} for arm in arms}
    for number in range(rounds):
        for point in points if number % 2 else reversed(points):
            for arm in arms[number % len(arms) :] + arms[: number % len(arms)]:
                asked = texts(point["batch"], point["words"], f"{arm} {number}")
                start = time.perf_counter()
                await work(arm, asked, point["tokens"])
                found[arm][point[axis]].append(1000 * (time.perf_counter() - start) / point["batch"])
    return {
        arm: [{"at": at, "ms_per_text": statistics.median(ms), "interval": interval(ms)} for at, ms in of.items()]
        for arm, of in found.items()
    }


def texts(count: int, words: int, seed: str) -> list[str]:
    """New ones for each seed, from the first word: plain vLLM would find a prompt that it had in its prefix cache."""
    rng = random.Random(f"{count} {words} {seed}")
    return [f"{seed} {i} " + " ".join(rng.choices(WORDS, k=words)) + "." for i in range(count)]


if __name__ == "__main__":
    main()
