"""What `GRACE_DTYPE=bfloat16` gives and costs on this machine's processor, against float32, which a CPU is served with.

The bundled model twice, each in an engine of its own that idles while the other works; rounds take turns. Processors
with bfloat16 products of their own (AMX, AVX512-BF16) gain, others lose. With `--data` the pairs of STSBenchmark's dev
part say what it does to vectors: correlations by both, and cosines between a text's two vectors.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import argparse
import gzip
import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import spearmanr

from bench._shared import ratios, report, with_interval
from bench._texts import sentences
from bench.offline import COUNTS

if TYPE_CHECKING:
    from grace import Grace

REST_S = 0.3  # idle threads of the other engine spin for a while


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, help="folder that holds stsbenchmark/dev.jsonl.gz")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    report(measure(options), options.json)


def measure(options: Any) -> dict[str, Any]:
    from grace import Grace

    with (
        Grace.load(max_num_seqs=64, dtype="float32") as exact,
        Grace.load(max_num_seqs=64, dtype="bfloat16") as rounded,
    ):
        arms = {"float32": exact, "bfloat16": rounded}
        figures = {"rounds": options.rounds} | speeds(arms, options)
        if options.data:
            figures |= agreement(arms, options.data)
    return figures


def speeds(arms: dict[str, Grace], options: Any) -> dict[str, Any]:
    """Texts a second of each, with rationales and without; the first round warms up."""
    found: dict[str, dict[str, list[float]]] = {mode: {name: [] for name in arms} for mode in COUNTS}
    for number in range(options.rounds + 1):
        for mode, count in COUNTS.items():
            texts = sentences(options.data, count, seed=number)
            for name in sorted(arms, reverse=bool(number % 2)):
                time.sleep(REST_S)
                start = time.perf_counter()
                arms[name].represent(texts, mode=mode, show_progress=False)
                if number:
                    found[mode][name].append(count / (time.perf_counter() - start))
    figures: dict[str, Any] = {}
    for mode, of in found.items():
        for name, values in of.items():
            figures |= with_interval(f"{mode}_{name}_texts_per_s", values)
        figures |= with_interval(f"{mode}_gain", ratios(of["bfloat16"], of["float32"]))
    return figures


def agreement(arms: dict[str, Grace], data: Path) -> dict[str, Any]:
    """Spearman's correlation x 100 with people's judgements, by each arm and mode, and cosines between the arms."""
    with gzip.open(data / "stsbenchmark" / "dev.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = [row[side] for side in ("s1", "s2") for row in rows]
    figures: dict[str, Any] = {"pairs": len(rows)}
    for mode in COUNTS:
        of = {}
        for name, grace in arms.items():
            found = grace.represent(texts, mode=mode, show_progress=False)
            of[name] = np.stack([one.vector() for one in found])
            left, right = np.split(of[name], 2)
            figures[f"{mode}_{name}_spearman"] = (
                100 * spearmanr((left * right).sum(axis=1), [row["score"] for row in rows]).statistic
            )
        cosines = (of["float32"] * of["bfloat16"]).sum(axis=1)
        figures |= {f"{mode}_cosine_least": float(cosines.min()), f"{mode}_cosine_median": float(np.median(cosines))}
    return figures


if __name__ == "__main__":
    main()
