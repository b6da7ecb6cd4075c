"""The second mixture of the miniature: sentences, questions and titles with the passages they belong to, and captions.

    python -m grace_training.tiny.passages --data DATA --folder .miniature/passages

No query or positive is met in two examples, so `train.jsonl` and `heldout.jsonl` have none in common. Papers and
messages, which most of the shipped suite is made of, are left out. `triples.jsonl` are the examples of `train.jsonl`,
each with a negative: its own, or the positive of another, for sentence-transformers wants a whole column of them.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from grace_training.tiny import pairs

SHARES = {"article": 0.35, "section": 0.10, "caption": 0.25, "rewritten": 0.08, "answer": 0.05, "span": 0.17}
EXAMPLES, HELD_OUT = 6000, 300
LONGEST = 70  # words; longer texts are cut
SEED = 0

Row = dict[str, Any]


def draw(
    kinds: dict[str, pairs.Kind], *, examples: int, held_out: int, rng: np.random.Generator
) -> tuple[list[Row], list[Row]]:
    """(train, held out), shuffled: of each kind its share, or as many as it has."""
    train: list[Row] = []
    kept_back: list[Row] = []
    met: set[str] = set()
    for name, share in SHARES.items():
        kind = kinds[name]
        wanted, apart = round(share * (examples + held_out)), round(share * held_out)
        keys: set[str] = set()
        for place in rng.permutation(len(kind.rows)):
            if len(keys) == wanted:
                break
            pair = kind.draw(kind.rows[place], rng)
            query, positive = _cut(pair.first.text), _cut(pair.second.text)
            if not query or not positive or query == positive or pair.key in keys or {query, positive} & met:
                continue
            negatives = [_cut(pair.negative.text)] if pair.negative else []
            row = {"query": query, "positive": positive, "negatives": negatives, "source": name}
            (kept_back if len(keys) < apart else train).append(row)
            keys.add(pair.key)
            met |= {query, positive}
    rng.shuffle(train)
    rng.shuffle(kept_back)
    return train, kept_back


def filled(rows: list[Row], rng: random.Random) -> list[Row]:
    """The rows, each with a negative: its own, or another's positive.

    Raises:
        ValueError: there is no other.
    """
    if len(rows) < 2:
        raise ValueError("an example without a negative needs another example")
    whole = []
    for row in rows:
        if not row["negatives"]:
            while (other := rng.choice(rows)) is row:
                pass
            row = {**row, "negatives": [other["positive"]]}
        whole.append(row)
    return whole


def write(data: Path, folder: Path) -> None:
    """Draw the mixture and write its three files; the same data give the same files."""
    kinds = pairs.kinds(data)
    running = [{"text": str(row["text"])} for name in ("article", "section") for row in kinds[name].rows]
    kinds["span"] = pairs.Kind(running, pairs.spanned, SHARES["span"], long=True)
    train, held_out = draw(kinds, examples=EXAMPLES, held_out=HELD_OUT, rng=np.random.default_rng(SEED))
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in {
        "heldout": held_out,
        "triples": filled(train, random.Random(SEED)),
        "train": train,  # last: who finds it finds all
    }.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def _cut(text: str) -> str:
    return " ".join(text.split()[:LONGEST])


def main() -> None:
    """Write the mixture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path(".miniature/passages"))
    options = parser.parse_args()
    write(options.data, options.folder)


if __name__ == "__main__":
    main()
