"""Analyses of explanations that a report shows: `faithfulness.json` and `calibration.json`.

They lie in the folder of a run, `.../grace/analysis/`, written by whoever measures them. Both are plain JSON; a file of
a newer format is refused.

    faithfulness.json
    {"format": 1, "label": "grace-tiny", "texts": 200, "measure": "cosine to the query",
     "curves": [{"kind": "deletion" | "insertion", "order": "attribution" | "random" | ...,
                 "share": [0, 0.25, ...], "value": [...], "low": [...], "high": [...]}],
     "areas": [{"kind": "deletion", "order": "attribution", "against": "random",
                "difference": -0.08, "low": -0.11, "high": -0.05}],
     "carried": [{"name": "SciFact nDCG@10", "with": 0.61, "without": 0.55, "low": 0.03, "high": 0.09}],
     "notes": ["..."]}

`share` is the share of sentences removed (deletion) or put back (insertion), 0..1 ascending; `low` and `high` are the
ends of the 95 % interval of `value`, all four of one length. `areas` compares the areas under two curves. `carried`
says how much of a quality stays without the rationale; `low` and `high` are of the difference.

    calibration.json
    {"format": 1, "label": "grace-tiny", "queries": 225, "rationales": 4, "signal": "consistency",
     "outcome": "top hit is relevant", "ece": 0.07, "spearman": 0.31, "low": 0.12, "high": 0.48,
     "bins": [{"from": 0.8, "to": 0.85, "signal": 0.83, "outcome": 0.41, "low": 0.3, "high": 0.5, "count": 37}],
     "notes": ["..."]}

A bin holds the queries whose signal lies in from..to: the mean of the signal, the share with the outcome, the 95 %
interval of that share, and how many they are. `ece` may be null: a signal that was never meant as a probability has
none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from grace_training.evaluation.report_page import Block, Cell, Line, Plot, Section, Table
from grace_training.evaluation.report_plots import Series, lines
from grace_training.evaluation.report_resample import Interval
from grace_training.evaluation.results import OWN, BadResults

FORMAT = 1
FOLDER = f"{OWN}/analysis"


def sections(folders: list[Path]) -> list[Section]:
    """A section of each kind, if any of the folders holds such a file.

    Raises:
        BadResults: a file is damaged, or of a newer format.
    """
    made = []
    kinds: tuple[tuple[str, str, Callable[[str, Mapping[str, Any]], list[Block]]], ...] = (
        ("faithfulness", "Do explanations point at what matters?", _faithfulness),
        ("calibration", "Does consistency tell when a result is right?", _calibration),
    )
    for name, title, draw in kinds:
        blocks: list[Block] = []
        for number, (path, data) in enumerate(_read(folders, name)):
            try:
                blocks += draw(f"{name}-{number}", data)
            except (KeyError, TypeError, ValueError) as error:
                form = "the form that report_analysis.py describes"
                raise BadResults(f"{path} does not have {form}: {error!r}") from error
        if blocks:
            made.append(Section(name, title, (), tuple(blocks)))
    return made


def _read(folders: list[Path], name: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    for folder in folders:
        for path in sorted(folder.rglob(f"{FOLDER}/{name}.json")):
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise BadResults(f"{path} cannot be read: {error}") from error
            if not isinstance(data, dict) or data.get("format", 0) > FORMAT:
                raise BadResults(f"{path} is no object of format {FORMAT} or older")
            yield path, data


def _faithfulness(name: str, data: Mapping[str, Any]) -> list[Block]:
    label, about = str(data["label"]), f"{int(data['texts'])} texts; {data['measure']}"
    blocks: list[Block] = []
    for kind in ("deletion", "insertion"):
        curves = [curve for curve in data["curves"] if curve["kind"] == kind]
        if not curves:
            continue
        what = "removed" if kind == "deletion" else "put back"
        series = [_series(str(curve["order"]), curve["share"], curve) for curve in curves]
        svg = lines(series, f"share of sentences {what}", str(data["measure"]))
        blocks.append(Plot(f"{name}-{kind}", f"{kind.title()}: {label}", svg, (about,)))
    measured = [
        Line(f"{area['kind']}: {area['order']} − {area['against']}", (_difference(area["difference"], area),))
        for area in data.get("areas", ())
    ]
    if measured:
        notes = ("Area between two curves; bold where the interval leaves out zero.", *map(str, data.get("notes", ())))
        blocks.append(Table(f"{name}-areas", f"Areas: {label}", "Curves", ("Difference",), tuple(measured), notes))
    carried = [
        Line(
            str(row["name"]),
            (
                Cell(f"{100 * row['with']:.2f}", 100 * row["with"]),
                Cell(f"{100 * row['without']:.2f}", 100 * row["without"]),
                _difference(row["with"] - row["without"], row, 100.0),
            ),
        )
        for row in data.get("carried", ())
    ]
    if carried:
        columns = ("With rationale", "Without", "Difference")
        blocks.append(
            Table(f"{name}-carried", f"What the rationale carries: {label}", "Quality", columns, tuple(carried))
        )
    return blocks


def _calibration(name: str, data: Mapping[str, Any]) -> list[Block]:
    bins = list(data["bins"])
    series = [_series("measured", [b["signal"] for b in bins], {
        "value": [b["outcome"] for b in bins], "low": [b["low"] for b in bins], "high": [b["high"] for b in bins],
    })]  # fmt: skip
    ece, rank = data.get("ece"), data.get("spearman")
    said = [f"{int(data['queries'])} queries, {int(data['rationales'])} rationales each."]
    if ece is not None:
        said.append(f"Expected calibration error {ece:.3f}.")
    if rank is not None:
        said.append(f"Rank correlation with the outcome {rank:.2f} [{data['low']:.2f}, {data['high']:.2f}].")
    signal, outcome = str(data["signal"]), str(data["outcome"])
    svg = lines(series, signal, f"share: {outcome}", diagonal=ece is not None, y_range=(0.0, 1.0))
    counted = tuple(
        Line(
            f"{b['from']:.3g} to {b['to']:.3g}",
            (Cell(str(int(b["count"])), b["count"]), Cell(f"{b['signal']:.3f}", b["signal"]),
             Cell(f"{b['outcome']:.3f}", b["outcome"], Interval(b["low"], b["high"]))),
        )
        for b in bins
    )  # fmt: skip
    notes = (" ".join(said), *map(str, data.get("notes", ())))
    title = f"{data['label']}: {signal} and {outcome}"
    return [
        Plot(f"{name}-plot", title, svg, notes),
        Table(f"{name}-bins", f"Bins: {data['label']}", signal, ("Queries", "Mean", "Share"), counted),
    ]


def _series(label: str, across: list[float], data: Mapping[str, Any]) -> Series:
    points = tuple((float(x), float(y)) for x, y in zip(across, data["value"], strict=True))
    low, high = (tuple(map(float, data[end])) for end in ("low", "high"))
    if {len(low), len(high)} != {len(points)}:
        raise ValueError(f"{label}: share, value, low and high differ in length")
    return Series(label, points, low, high)


def _difference(value: float, data: Mapping[str, Any], times: float = 1.0) -> Cell:
    ends = Interval(times * float(data["low"]), times * float(data["high"]))
    digits = 2 if times > 1 else 4
    return Cell(f"{times * value:+.{digits}f}", times * value, ends, ends.excludes_zero)
