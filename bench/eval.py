"""Embedding for an evaluation, keys, shelf and all, against the engine alone.

Two arms, interleaved, with texts of their own in every round:
  engine   `Grace.run` over jobs that were made before
  eval     `Embedder.vectors`: prompts, keys, looking up, the same engine, writing to disk, reading back

`eval_vs_engine` is the ratio of their texts per second (target: at least 0.95). `again_vs_engine` is the second time
the same texts are asked for, when all come from the shelf.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import tempfile
import time
from collections.abc import Callable

from bench._shared import arguments, model_100m, rates, ratios, report, texts, with_interval
from grace import Grace
from grace_training.evaluation.embedding import Embedder, Options
from grace_training.evaluation.representations import Shelf


def main() -> None:
    options = arguments(__doc__ or "", texts=96, rounds=5, tokens=32)
    with (
        model_100m() as folder,
        Grace.load(folder, kv_cache_gib=0.25) as grace,
        tempfile.TemporaryDirectory() as shelves,
        Shelf(Path(shelves), poolings=("mean",), hidden=grace.checkpoint.hidden_size) as shelf,
    ):
        embedder = Embedder(
            grace.checkpoint, grace.prompter, lambda: grace, shelf, Options(budget=options.tokens), show_progress=False
        )
        seconds: dict[str, list[float]] = {"engine": [], "eval": [], "again": []}
        for number in range(options.rounds + 1):
            mine, theirs = texts(options.texts, seed=2 * number), texts(options.texts, seed=2 * number + 1)
            jobs = [embedder.job(text, "document") for text in theirs]
            arms: dict[str, Callable[[], object]] = {
                "engine": lambda jobs=jobs: list(grace.run(jobs)),
                "eval": lambda mine=mine: embedder.vectors(mine, "document", "mean"),
                "again": lambda mine=mine: embedder.vectors(mine, "document", "mean"),
            }
            orders = (("engine", "eval", "again"), ("eval", "again", "engine"))  # "again" is after "eval" by its name
            for name in orders[number % 2]:
                started = time.perf_counter()
                arms[name]()
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - started)
    figures = {
        "texts": options.texts,
        "rationale_tokens": options.tokens,
        "rounds": options.rounds,
        **rates(seconds, options.texts),
        **with_interval("eval_vs_engine", ratios(seconds["engine"], seconds["eval"])),
        **with_interval("again_vs_engine", ratios(seconds["engine"], seconds["again"])),
    }
    report(figures, options.json)


if __name__ == "__main__":
    main()
