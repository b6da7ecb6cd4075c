"""How cost grows: with the length of the text, of the rationale, with the batch, and with the corpus.

The bundled model offline; one thing varies, the others stay at their middle. Seconds of a whole batch, in rounds that
take turns, as milliseconds a text. Rationales never end by themselves here, so that each is as long as its budget. The
corpus is encoded in mode `direct`, as an index would be filled: a text must not cost more for being one of many.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import random
import statistics
import time
from typing import Any

from bench._shared import WORDS, arguments, interval, report

MIDDLE: dict[str, Any] = {"words": 40, "tokens": 24, "batch": 64}
INPUT_WORDS = (10, 40, 160, 320)
RATIONALE_TOKENS = (1, 8, 24, 48)
BATCHES = (1, 4, 16, 64, 256)
CORPORA = (256, 1024, 2048)


def main() -> None:
    options = arguments(__doc__ or "", rounds=3)
    report(measure(options.rounds), options.json)


def measure(rounds: int) -> dict[str, Any]:
    with loaded() as grace:

        def encode(words: int, tokens: int, batch: int, mode: Any = "reason", seed: int = 0) -> float:
            budget = {"max_rationale_tokens": tokens} if mode == "reason" else {}
            asked = texts(batch, words, seed)
            start = time.perf_counter()
            grace.encode(asked, mode=mode, show_progress=False, **budget)
            return 1000 * (time.perf_counter() - start) / batch

        encode(**MIDDLE)
        axes: dict[str, list[tuple[int, dict[str, Any]]]] = {
            "input_words": [(n, MIDDLE | {"words": n}) for n in INPUT_WORDS],
            "rationale_tokens": [(n, MIDDLE | {"tokens": n}) for n in RATIONALE_TOKENS],
            "batch": [(n, MIDDLE | {"batch": n}) for n in BATCHES],
            "corpus": [(n, {"words": 20, "tokens": 1, "batch": n, "mode": "direct"}) for n in CORPORA],
        }
        figures: dict[str, Any] = {"rounds": rounds, "middle": MIDDLE}
        for axis, points in axes.items():
            found: dict[int, list[float]] = {n: [] for n, _ in points}
            for number in range(rounds):
                for n, how in points if number % 2 else reversed(points):
                    found[n].append(encode(**how, seed=number + 1))
            figures[axis] = [
                {"at": n, "ms_per_text": statistics.median(times), "interval": interval(times)}
                for n, times in found.items()
            ]
    return figures


def loaded() -> Any:
    """The bundled model with a stop token that it never writes."""
    from grace import Grace
    from grace.checkpoint import BUNDLED_NAME, Checkpoint
    from grace.engines.vllm import VllmEngine, VllmOptions
    from grace.prompt import Prompter

    checkpoint = Checkpoint.load(BUNDLED_NAME)
    prompter = Prompter(checkpoint)
    prompter.stop_ids = (prompter.tokenizer.convert_tokens_to_ids("<|im_start|>"),)
    return Grace(checkpoint, prompter, lambda: VllmEngine(checkpoint, prompter, VllmOptions(max_num_seqs=64)))


def texts(count: int, words: int, seed: int) -> list[str]:
    rng = random.Random(f"{count} {words} {seed}")
    return [f"{seed} {i} " + " ".join(rng.choices(WORDS, k=words)) + "." for i in range(count)]


if __name__ == "__main__":
    main()
