"""A mixture of supervised sources, split in two: so many examples of each to train on, so many to hold out.

    python -m grace_training.mix snli.jsonl.xz squad.jsonl.gz --rows 400 --held-out-rows 60 --folder mixed

`mixed/train.jsonl` and `mixed/heldout.jsonl` have no text in common, whichever source it came from; no two held-out
examples have one either, so each query has one positive and is one independent observation.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from grace_training.data import Example, read, text_key
from grace_training.errors import BadData


def split(
    sources: Sequence[list[Example]], *, rows: int, held_out_rows: int, negatives: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """(train, held out), drawn from each source alike and shuffled.

    Raises:
        BadData: a source has too few examples that share no text with the held-out ones.
    """
    rng = random.Random(seed)
    shuffled = [rng.sample(examples, len(examples)) for examples in sources]
    held_out: list[Example] = []
    known: set[int] = set()
    for number, examples in enumerate(shuffled):
        taken = 0
        for example in (_cut(e, negatives) for e in examples):
            keys = _keys(example)
            if taken < held_out_rows and not keys & known:
                held_out.append(example)
                known |= keys
                taken += 1
        _enough(taken, held_out_rows, "hold out", number, examples)
    train: list[Example] = []
    for number, examples in enumerate(shuffled):
        # Whole texts count here, also negatives that are cut: nothing held out is met in training.
        free = [_cut(e, negatives) for e in examples if not _keys(e) & known][:rows]
        _enough(len(free), rows, "train on", number, examples)
        train += free
    rng.shuffle(train)
    rng.shuffle(held_out)
    return train, held_out


def _cut(example: Example, negatives: int) -> Example:
    return replace(example, negatives=example.negatives[:negatives])


def _keys(example: Example) -> set[int]:
    return {text_key(text) for text in example.texts}


def _enough(found: int, wanted: int, what: str, number: int, examples: list[Example]) -> None:
    if found < wanted:
        raise BadData(
            f"source {number + 1} ({examples[0].source}, {len(examples)} examples) has {found} examples to {what} "
            f"that share no text with the held-out ones; {wanted} are wanted"
        )


def write(examples: list[Example], path: Path) -> None:
    """JSON lines that `grace-train` reads, each with the place it came from."""
    with path.open("w", encoding="utf-8") as stream:
        for e in examples:
            row = {"query": e.query, "positive": e.positive, "negatives": list(e.negatives), "source": e.source}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _mixed(options: argparse.Namespace) -> tuple[list[Example], list[Example]]:
    read_all = [read(source, "supervised", skip_bad=options.skip_bad) for source in options.sources]
    if bad := [place for data in read_all for place in data.bad]:
        print(f"{len(bad)} bad rows skipped:", *bad[:20], sep="\n    ", file=sys.stderr)
    # A file's name says little ("train.jsonl.xz:7"): its folder's name goes before it.
    named = [
        [
            replace(e, source=f"{Path(source).parent.name}/{e.source}")
            for e in data.examples
            if options.longest is None or all(len(text.split()) <= options.longest for text in e.texts)
        ]
        for source, data in zip(options.sources, read_all, strict=True)
    ]
    return split(
        named, rows=options.rows, held_out_rows=options.held_out_rows, negatives=options.negatives, seed=options.seed
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, split, write."""
    parser = argparse.ArgumentParser(prog="python -m grace_training.mix", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sources", nargs="+", metavar="FILE")
    parser.add_argument("--folder", type=Path, required=True, help="where train.jsonl and heldout.jsonl go")
    parser.add_argument("--rows", type=int, default=400, help="of each source, to train on")
    parser.add_argument("--held-out-rows", type=int, default=60, help="of each source, to measure on")
    parser.add_argument("--negatives", type=int, default=2, help="the most that an example keeps")
    parser.add_argument("--longest", type=int, metavar="WORDS", help="leave out examples with a longer text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-bad", action="store_true", help="leave bad rows out, and list them")
    options = parser.parse_args(arguments)
    try:
        train, held_out = _mixed(options)
    except BadData as error:
        print(f"mix: {error}", file=sys.stderr)
        return 2
    options.folder.mkdir(parents=True, exist_ok=True)
    write(train, options.folder / "train.jsonl")
    write(held_out, options.folder / "heldout.jsonl")
    print(f"{len(train)} examples to train on, {len(held_out)} held out, in {options.folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
