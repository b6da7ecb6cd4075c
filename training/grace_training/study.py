"""What several runs saw together: held-out figures before and after, over seeds and over examples, and their curves.

    python -m grace_training.study runs/paper-0 runs/paper-1 runs/improved-0 --curves curves.svg

A folder is named ARM-SEED and holds what a run leaves: heldout.jsonl, and history.json once it is finished. Runs of one
arm are averaged, up to the last step that all of them were measured at. S seeds, E held-out queries or examples.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from grace_training import curves
from grace_training.curves import Point
from grace_training.errors import BadData
from grace_training.heldout import RECORD

MEASURED = {
    "ndcg_at_10": "nDCG@10",
    "accuracy_at_1": "accuracy@1",
    "infonce": "InfoNCE reward",
    "margin": "margin reward",
}
LOGGED = {
    "grace/paid": "reward paid",
    "grace/spread": "similarity between examples",
    "grace/cut_off": "share cut off",
    "completions/mean_length": "tokens per rationale",
}
ENDS = 20  # steps at each end of a run over which what was logged is averaged


class Change(NamedTuple):
    """How a figure moved from the first measurement to the last."""

    before: float
    after: float
    difference: float
    interval: float  # half of the 95 % interval over the E pairs, seeds averaged first
    seeds: float  # standard error over seeds; NaN with one


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run."""

    arm: str
    seed: str
    measured: dict[int, dict[str, list[float]]]  # step -> figure -> (E,)
    history: list[dict[str, float]]  # empty while it runs


def load(folder: Path) -> Outcome:
    """Read what a run left.

    Raises:
        BadData: it was not measured twice.
    """
    arm, _, seed = folder.name.rpartition("-")
    try:
        lines = [json.loads(line) for line in (folder / RECORD).read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError as error:
        raise BadData(f"{folder}: no run with held-out figures, {error.filename} is missing") from error
    logged = folder / "history.json"
    history = json.loads(logged.read_text(encoding="utf-8")) if logged.exists() else []
    measured = {line["step"]: {name: line[name] for name in MEASURED} for line in lines}
    if not arm or len(measured) < 2:
        raise BadData(f"{folder}: a folder ARM-SEED with at least two measurements is needed")
    return Outcome(arm, seed, measured, history)


def change(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> Change:
    """(S, E) values before and after -> how they moved, in pairs."""
    moved = [[b - a for a, b in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)]
    examples = [statistics.fmean(column) for column in zip(*moved, strict=True)]  # (E,)
    runs = [statistics.fmean(row) for row in moved]  # (S,)
    return Change(
        before=statistics.fmean(map(statistics.fmean, before)),
        after=statistics.fmean(map(statistics.fmean, after)),
        difference=statistics.fmean(runs),
        interval=1.96 * statistics.stdev(examples) / math.sqrt(len(examples)),
        seeds=statistics.stdev(runs) / math.sqrt(len(runs)) if len(runs) > 1 else math.nan,
    )


def by_arm(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """In the order they were given."""
    arms: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        arms[outcome.arm].append(outcome)
    return arms


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Two tables in Markdown: held-out figures, then what was logged in training."""
    lines = [
        "| arm | seeds | steps | held out | before | after | change, 95 % over examples | s.e. over seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, runs in by_arm(outcomes).items():
        steps = set(runs[0].measured).intersection(*(run.measured for run in runs[1:]))
        for name, title in MEASURED.items():
            c = change(*([run.measured[step][name] for run in runs] for step in (min(steps), max(steps))))
            seeds = "" if math.isnan(c.seeds) else f"{c.seeds:.3f}"
            lines.append(
                f"| {arm} | {len(runs)} | {max(steps)} | {title} | {c.before:.3f} | {c.after:.3f} | "
                f"{c.difference:+.3f} ± {c.interval:.3f} | {seeds} |"
            )
    lines += ["", f"| arm | in training | steps 1-{ENDS} | last {ENDS} steps |", "|---|---|---|---|"]
    for arm, runs in by_arm([outcome for outcome in outcomes if outcome.history]).items():
        for name, title in LOGGED.items():
            logged = [[entry[name] for entry in run.history if name in entry] for run in runs]
            if not all(logged):
                continue  # a baseline has neither rewards nor rationales
            head = _spread([statistics.fmean(values[:ENDS]) for values in logged])
            tail = _spread([statistics.fmean(values[-ENDS:]) for values in logged])
            lines.append(f"| {arm} | {title} | {head} | {tail} |")
    return lines


def _spread(seeds: list[float]) -> str:
    """Mean, and the least and the most where there are several."""
    mean = f"{statistics.fmean(seeds):.2f}"
    return mean if len(seeds) == 1 else f"{mean} ({min(seeds):.2f} to {max(seeds):.2f})"


def panels(outcomes: Sequence[Outcome]) -> dict[str, dict[str, list[Point]]]:
    """Means over the seeds of each arm: held-out figures, and what was logged, over a window of 10 steps."""
    found: dict[str, dict[str, list[Point]]] = {}
    for name, title in MEASURED.items():
        found[f"held-out {title}"] = {
            arm: _mean([{step: statistics.fmean(at[name]) for step, at in run.measured.items()} for run in runs])
            for arm, runs in by_arm(outcomes).items()
        }
    for name, title in LOGGED.items():
        found[title] = {
            arm: _smooth(_mean([{e["step"]: e[name] for e in run.history if name in e} for run in runs]), 10)
            for arm, runs in by_arm([outcome for outcome in outcomes if outcome.history]).items()
        }
    drawn = {title: {arm: points for arm, points in series.items() if points} for title, series in found.items()}
    return {title: series for title, series in drawn.items() if series}


def _mean(runs: Sequence[Mapping[float, float]]) -> list[Point]:
    common = sorted(set(runs[0]).intersection(*runs[1:]))
    return [(step, statistics.fmean(run[step] for run in runs)) for step in common]


def _smooth(points: list[Point], width: int) -> list[Point]:
    return [
        (points[n][0], statistics.fmean(y for _, y in points[max(0, n - width + 1) : n + 1]))
        for n in range(len(points))
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables, draw the curves."""
    parser = argparse.ArgumentParser(prog="python -m grace_training.study", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="ARM-SEED")
    parser.add_argument("--curves", type=Path, metavar="FILE.svg")
    options = parser.parse_args(arguments)
    outcomes = [load(folder) for folder in options.runs]
    print("\n".join(table(outcomes)))
    if options.curves:
        options.curves.write_text(curves.svg(panels(outcomes)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
