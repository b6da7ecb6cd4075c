"""Sentences of STSBenchmark, or some of the same length where the data is not at hand."""

from __future__ import annotations

import gzip
import json
import random
from functools import cache
from pathlib import Path

from bench._shared import WORDS


def sentences(data: Path | None, count: int, *, seed: int) -> list[str]:
    """So many sentences, other ones for another seed; none twice in what one process asks for with different seeds.

    What is drawn again for want of more is marked by a number, lest a cache answer it.
    """
    if data is None:
        rng = random.Random(seed)
        return [f"{seed} {i} " + " ".join(rng.choices(WORDS, k=rng.randint(5, 12))) + "." for i in range(count)]
    known = _read(data / "stsbenchmark" / "dev.jsonl.gz")
    found = []
    for at in range(seed * count, (seed + 1) * count):
        lap, place = divmod(at, len(known))
        found.append(known[place] if not lap else f"{known[place]} {lap}")
    return found


@cache
def _read(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = list(dict.fromkeys(row[side] for row in rows for side in ("s1", "s2")))
    random.Random(0).shuffle(texts)
    return texts
