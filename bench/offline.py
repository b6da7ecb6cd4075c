"""The library without a server: texts a second of the bundled model, with rationales and in mode `direct`.

`Grace.encode` as it comes, 64 texts in a step. STSBenchmark's sentences with `--data`, made-up ones of the same length
without; each round has other texts. With rationales 256 texts a round, direct 1,024.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import argparse
import time
from typing import Any

from bench._shared import report, with_interval
from bench._texts import sentences

COUNTS: dict[Any, int] = {"reason": 256, "direct": 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help="folder that holds stsbenchmark/dev.jsonl.gz")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--model", default="grace-tiny", help="a checkpoint; the bundled one, if not said")
    options = parser.parse_args()
    report(measure(options), options.json)


def measure(options: Any) -> dict[str, Any]:
    from grace import Grace

    speeds: dict[str, list[float]] = {mode: [] for mode in COUNTS}
    tokens: list[float] = []
    with Grace.load(options.model, max_num_seqs=64) as grace:
        for number in range(options.rounds + 1):
            for mode, count in COUNTS.items():
                texts = sentences(options.data, count, seed=number)
                start = time.perf_counter()
                made = grace.represent(texts, mode=mode, show_progress=False)
                for one in made:
                    one.vector()
                if number:  # the first round warms up
                    speeds[mode].append(count / (time.perf_counter() - start))
                    tokens += [one.completion_tokens for one in made] if mode == "reason" else []
    figures: dict[str, Any] = {"rounds": options.rounds, "texts": "STSBenchmark" if options.data else "made up"}
    for mode, found in speeds.items():
        figures |= with_interval(f"{mode}_texts_per_s", found)
    return figures | {"rationale_tokens_mean": sum(tokens) / len(tokens)}


if __name__ == "__main__":
    main()
