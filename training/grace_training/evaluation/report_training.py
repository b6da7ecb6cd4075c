"""What varies in training and in reading out: algorithms, the reward's weights, steps, representations, budgets."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from grace_training.evaluation import report_published as published
from grace_training.evaluation.report_entries import Entry, difference, mean
from grace_training.evaluation.report_page import Block, Cell, Line, Section, Table
from grace_training.evaluation.report_page import Plot as PlotBlock
from grace_training.evaluation.report_plots import Series, bars, lines
from grace_training.evaluation.report_rows import (
    ROW_TITLES,
    SHORT,
    categories,
    groups,
    names,
    same_training,
    scored,
    signed,
    with_best,
)
from grace_training.evaluation.results import Row

PRINTED_ORDER = ("remax", "reinforce++", "dapo", "grpo")  # the paper's
GRACE: tuple[Row, ...] = ("grace-supervised", "grace-unsupervised")


def sections(found: Sequence[Entry], resamples: int) -> list[Section]:
    """The sections that there are runs for."""
    made = []
    for name, title, build in (
        ("algorithms", "Algorithms", _algorithms),
        ("weights", "Weights of the reward", _weights),
        ("training", "Over training", _steps),
        ("representations", "Representations", _representations),
        ("budgets", "Length of the rationale", _budgets),
    ):
        blocks: list[Block] = []
        for number, ((benchmark, backbone), some) in enumerate(groups(found).items()):
            blocks += build(f"{name}-{number}", f"{benchmark} · {backbone}", backbone, some, resamples)
        if blocks:
            made.append(Section(name, title, (), tuple(blocks)))
    return made


def _last(some: Sequence[Entry]) -> list[Entry]:
    """The end of each training."""

    def ended(entry: Entry) -> bool:
        steps = [e.key.step for e in some if same_training(e.key, entry.key) and e.key.step is not None]
        return entry.key.step is None or entry.key.step == max(steps)

    return [entry for entry in some if ended(entry)]


def _as_used(some: Sequence[Entry]) -> list[Entry]:
    """Of each training one way of reading out: the mean, at the largest budget."""
    kept: list[Entry] = []
    order = ("mean", "rationale", "input", "last", "direct")
    for entry in sorted(some, key=lambda e: (order.index(e.key.representation or "mean"), -(e.key.budget or 0))):
        if not any(same_training(entry.key, k.key) and entry.key.step == k.key.step for k in kept):
            kept.append(entry)
    return kept


def _algorithms(name: str, title: str, backbone: str, some: list[Entry], resamples: int) -> list[Block]:
    blocks: list[Block] = []
    for row in GRACE:
        rivals = _as_used(_last([e for e in some if e.key.row == row and e.key.algorithm]))
        by_rest: dict[tuple[object, ...], list[Entry]] = {}
        for e in sorted(rivals, key=lambda e: PRINTED_ORDER.index(e.key.algorithm or "grpo")):
            by_rest.setdefault((e.key.preset, e.key.consistency_weight, e.key.hard_weight), []).append(e)
        for number, same in enumerate(by_rest.values()):
            if len({e.key.algorithm for e in same}) < 2:
                continue
            by_category = categories(same)
            every = [task for tasks in by_category.values() for task in tasks]
            columns = [*by_category.values(), every]
            cells = [[scored(e, tasks, resamples, spread=tasks is every) for tasks in columns] for e in same]
            with_best(same, cells, columns, resamples)
            made, notes = [], []
            for e, row_cells in zip(same, cells, strict=True):
                made.append(
                    Line(e.key.algorithm or "", tuple(row_cells), note=f"{len(e.runs)} run{'s' * (len(e.runs) > 1)}")
                )
                if beside := published.algorithm(backbone, e.key.algorithm or ""):
                    figures = [beside.scores.get(c) for c in by_category]
                    printed = [Cell("–") if f is None else Cell(f"{f:.2f}", f) for f in (*figures, beside.average)]
                    made.append(Line(f"{e.key.algorithm}, published", tuple(printed), kind="published"))
                    notes = ["Published: 16 tasks that the paper does not name one by one; as printed."]
            heads = (*(f"{SHORT.get(c, c)} {len(t)}" for c, t in by_category.items()), f"Avg. {len(every)}")
            what = " · ".join(part for part in (title, ROW_TITLES[row], same[0].key.preset) if part)
            blocks.append(Table(f"{name}-{row}-{number}", what, "Algorithm", heads, tuple(made), tuple(notes)))
    return blocks


def _weights(name: str, title: str, backbone: str, some: list[Entry], resamples: int) -> list[Block]:
    blocks: list[Block] = []
    for row in GRACE:
        trained = _as_used(_last([e for e in some if e.key.row == row and e.key.hard_weight is not None]))
        for preset in dict.fromkeys(e.key.preset for e in trained):
            for algorithm in dict.fromkeys(e.key.algorithm for e in trained):
                same = [e for e in trained if (e.key.preset, e.key.algorithm) == (preset, algorithm)]
                at = {(e.key.consistency_weight, e.key.hard_weight): e for e in same}
                if len(at) >= 2:
                    what = " · ".join(part for part in (title, ROW_TITLES[row], preset, algorithm) if part)
                    blocks.append(_grid(f"{name}-{len(blocks)}", what, at, resamples))
    return blocks


def _grid(name: str, title: str, at: dict[tuple[float | None, float | None], Entry], resamples: int) -> Table:
    across = sorted({hard for _, hard in at if hard is not None})
    down = sorted({consistency for consistency, _ in at if consistency is not None})
    tasks = [task for tasks in categories(list(at.values())).values() for task in tasks]
    figures = {place: mean(entry, tasks, resamples) for place, entry in at.items()}
    values = [figure.value for figure in figures.values() if figure]
    low, high = min(values, default=0.0), max(values, default=0.0)
    made = []
    for consistency in down:
        cells = []
        for hard in across:
            figure = figures.get((consistency, hard))
            shade = (figure.value - low) / (high - low) if figure and high > low else None
            cells.append(
                Cell("–", note="not run")
                if figure is None
                else Cell(f"{figure.value:.2f}", figure.value, figure.interval, shade=shade)
            )
        made.append(Line(f"λ₁ = {consistency:g}", tuple(cells)))
    notes = ("Average over tasks. λ₁ weighs consistency, λ₂ hard negatives.",)
    return Table(name, title, "", tuple(f"λ₂ = {hard:g}" for hard in across), tuple(made), notes)


def _steps(name: str, title: str, backbone: str, some: list[Entry], resamples: int) -> list[Block]:
    trainings: list[list[Entry]] = []
    for entry in some:
        if entry.key.step is None or entry.key.row == "peer":
            continue
        place = next((t for t in trainings if t[0].key._replace(step=None) == entry.key._replace(step=None)), None)
        if place is None:
            trainings.append([entry])
        else:
            place.append(entry)
    trainings = [sorted(t, key=lambda e: e.key.step or 0) for t in trainings if len(t) > 1]
    if not trainings:
        return []
    labels = names([t[0] for t in trainings])
    accuracy, lengths, made = [], [], []
    for training, label in zip(trainings, labels, strict=True):
        tasks = [task for tasks in categories(training).values() for task in tasks]
        shared = [task for task in tasks if all(e.score(task) is not None for e in training)]
        figures = [(e, mean(e, shared, resamples)) for e in training]
        points = [(float(e.key.step or 0), f.value) for e, f in figures if f]
        spread = [f.interval for _, f in figures if f]
        banded = all(spread)
        accuracy.append(
            Series(
                label,
                tuple(points),
                tuple(i.low for i in spread if i) if banded else (),
                tuple(i.high for i in spread if i) if banded else (),
            )
        )
        written = [(float(e.key.step or 0), _tokens(e)) for e in training]
        lengths.append(Series(label, tuple((x, y) for x, y in written if y is not None)))
        for e, f in figures:
            length = _tokens(e)
            cells = (
                Cell(str(e.key.step), e.key.step),
                Cell("–") if f is None else Cell(f"{f.value:.2f}", f.value, f.interval),
                Cell("–") if length is None else Cell(f"{length:.1f}", length),
            )
            made.append(Line(label, cells))
    notes = ("Average over the tasks that every step has; bands are 95 % intervals.",)
    blocks: list[Block] = []
    if accuracy := [s for s in accuracy if s.points]:
        blocks.append(PlotBlock(f"{name}-score", f"Score: {title}", lines(accuracy, "step", "average score"), notes))
    if lengths := [s for s in lengths if s.points]:
        svg = lines(lengths, "step", "tokens per rationale")
        blocks.append(PlotBlock(f"{name}-length", f"Length of rationales: {title}", svg))
    return [*blocks, Table(f"{name}-steps", title, "Training", ("Step", "Avg.", "Tokens"), tuple(made))]


def _tokens(entry: Entry) -> float | None:
    known = [s.run.rationale_tokens for s in entry.runs if s.run.rationale_tokens is not None]
    return fmean(known) if known else None


def _representations(name: str, title: str, backbone: str, some: list[Entry], resamples: int) -> list[Block]:
    blocks: list[Block] = []
    for number, same in enumerate(_readings(_last(some))):
        widest = max(e.key.budget or 0 for e in same)
        same = [e for e in same if e.key.representation == "direct" or (e.key.budget or 0) == widest]
        if len({e.key.representation for e in same}) < 2:
            continue
        by_category = categories(same)
        every = [task for tasks in by_category.values() for task in tasks]
        columns = [*by_category.values(), every]
        cells = [[scored(e, tasks, resamples, spread=tasks is every) for tasks in columns] for e in same]
        with_best(same, cells, columns, resamples)
        labels = [str(e.key.representation) for e in same]
        what = " · ".join((title, names(same)[-1].partition(" · ")[0], f"{widest} tokens"))
        made = [Line(label, tuple(row)) for label, row in zip(labels, cells, strict=True)]
        heads = (*(f"{SHORT.get(c, c)} {len(t)}" for c, t in by_category.items()), f"Avg. {len(every)}")
        figures = [mean(e, every, resamples) for e in same]
        drawn = [(label, f) for label, f in zip(labels, figures, strict=True) if f]
        svg = bars(
            [label for label, _ in drawn], [f.value for _, f in drawn], [f.interval for _, f in drawn], "average score"
        )
        notes = ("One pass per text gives all of these but `direct`, which writes nothing.",)
        blocks.append(PlotBlock(f"{name}-{number}-plot", what, svg))
        blocks.append(Table(f"{name}-{number}", what, "Representation", heads, tuple(made), notes))
    return blocks


def _budgets(name: str, title: str, backbone: str, some: list[Entry], resamples: int) -> list[Block]:
    blocks: list[Block] = []
    for number, same in enumerate(_readings(_last(some))):
        used = sorted(
            (e for e in same if e.key.representation == "mean" and e.key.budget), key=lambda e: e.key.budget or 0
        )
        if len(used) < 2:
            continue
        tasks = [task for tasks in categories(used).values() for task in tasks]
        full = used[-1]
        made, points, low, high = [], [], [], []
        for e in used:
            figure, speed = mean(e, tasks, resamples), [s.run.texts_per_s for s in e.runs if s.run.texts_per_s]
            length = _tokens(e)
            cells = (
                scored(e, tasks, resamples, spread=True),
                Cell("") if e is full else signed(difference(e, full, tasks, resamples)),
                Cell("–") if length is None else Cell(f"{length:.1f}", length),
                Cell(f"{fmean(speed):.1f}", fmean(speed)) if speed else Cell("–"),
            )
            made.append(Line(f"{e.key.budget} tokens", cells))
            if figure:
                points.append((float(e.key.budget or 1), figure.value))
                low.append(figure.interval.low if figure.interval else figure.value)
                high.append(figure.interval.high if figure.interval else figure.value)
        label = names([full])[0]
        svg = lines(
            [Series(label, tuple(points), tuple(low), tuple(high))], "budget, tokens", "average score", log_x=True
        )
        blocks.append(PlotBlock(f"{name}-{number}-plot", title, svg))
        columns = ("Avg.", f"− {full.key.budget} tokens", "Written", "Texts/s")
        notes = ("Texts/s are of the machine each run names; cached texts are not counted.",)
        blocks.append(Table(f"{name}-{number}", f"{title} · {label}", "Budget", columns, tuple(made), notes))
    return blocks


def _readings(some: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that are one model, read out in different ways."""
    made: list[list[Entry]] = []
    for entry in some:
        if entry.key.representation is None or entry.key.row == "peer":
            continue
        # A model as it came is `base` when it writes nothing and `reasoning` when it does: one model all the same.
        one = [e for e in made if _model(e[0]) == _model(entry)]
        if one:
            one[0].append(entry)
        else:
            made.append([entry])
    return made


def _model(entry: Entry) -> tuple[object, ...]:
    return tuple(sorted({seeded.run.fingerprint for seeded in entry.runs}))
