"""Keep what the stages of grace-tiny logged, and draw it.

python -m grace_training.tiny.progress --work .tiny   # after training: the losses of all stages, as one file
python -m grace_training.tiny.progress                # the curves, from that file
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from grace_training import curves

ROOT = Path(__file__).parents[3]
LOSSES = ROOT / "docs" / "results" / "grace-tiny-losses.jsonl"
CURVES = ROOT / "docs" / "images" / "grace-tiny-training.svg"
STAGES = ("pretrain", "words", "contrast", "finetune", "refine", "unlearn-1", "unlearn-2", "brief")
PLAIN = ("loss", "text", "rationale", "long", "fault")  # losses with a line of their own; others are the contrast
COUNTS = ("step", "minutes", "million tokens", "stage")

Row = dict[str, Any]


def kept(work: Path) -> list[Row]:
    """What each stage logged, in the order of the stages."""
    files = [(stage, work / f"{stage}.jsonl") for stage in STAGES]
    return [
        {"stage": stage, **json.loads(line)}
        for stage, path in files
        if path.exists()
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def lines(row: Row) -> dict[str, float]:
    """The losses of a row, those of the kinds of pairs as one: their mean."""
    found = {name: float(row[name]) for name in PLAIN if name in row}
    pairs = [float(value) for name, value in row.items() if name not in (*PLAIN, *COUNTS)]
    return {**found, "contrast": mean(pairs)} if pairs else found


def panels(rows: list[Row]) -> dict[str, dict[str, list[curves.Point]]]:
    """A panel for each stage: its losses over its steps, in nats."""
    found: dict[str, dict[str, list[curves.Point]]] = {}
    for row in rows:
        series = found.setdefault(str(row["stage"]), {})
        for name, value in lines(row).items():
            series.setdefault(name, []).append((float(row["step"]), value))
    return found


def main() -> None:
    """Keep, if asked to, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="keep the losses of this work folder first")
    options = parser.parse_args()
    if options.work:
        LOSSES.write_text("".join(json.dumps(row) + "\n" for row in kept(options.work)), encoding="utf-8")
    rows = [json.loads(line) for line in LOSSES.read_text(encoding="utf-8").splitlines()]
    CURVES.write_text(curves.svg(panels(rows)), encoding="utf-8")


if __name__ == "__main__":
    main()
