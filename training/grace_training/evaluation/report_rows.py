"""Which entries stand in which table, what their lines are called, and which figure of a column may be bold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from grace_training.evaluation.report_entries import Entry, Figure, Key, difference, mean
from grace_training.evaluation.report_page import Cell
from grace_training.evaluation.results import CATEGORIES, GENERAL, ROWS, Row

ROW_TITLES: dict[Row, str] = {
    "base": "Base",
    "reasoning": "With reasoning",
    "contrastive": "Contrastive",
    "simcse": "SimCSE",
    "grace-supervised": "GRACE, supervised",
    "grace-unsupervised": "GRACE, unsupervised",
    "peer": "Peer",
}
SHORT = {
    "Retrieval": "Retr.",
    "Reranking": "Rerank.",
    "Clustering": "Clust.",
    "PairClassification": "Pair",
    "Classification": "Class.",
    "STS": "STS",
    "Summarization": "Summ.",
}
# What may tell apart two lines of one row, and how it is written.
_APART: tuple[tuple[str, str], ...] = (
    ("preset", "{}"),
    ("algorithm", "{}"),
    ("consistency_weight", "λ₁ {:g}"),
    ("hard_weight", "λ₂ {:g}"),
    ("representation", "{}"),
    ("budget", "{} tokens"),
    ("step", "step {}"),
    ("apart", "{}"),
)


def embedding(found: Iterable[Entry]) -> list[Entry]:
    """Entries of embedding tasks."""
    return [entry for entry in found if entry.key.benchmark != GENERAL]


def groups(found: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    """By benchmark and backbone; peers stand beside every backbone of their benchmark."""
    found = list(found)
    peers = [entry for entry in found if entry.key.row == "peer"]
    made: dict[tuple[str, str], list[Entry]] = {}
    for entry in found:
        if entry.key.row != "peer":
            made.setdefault((entry.key.benchmark, entry.key.backbone), []).append(entry)
    for peer in peers:
        places = [place for place in made if place[0] == peer.key.benchmark]
        for place in places or [(peer.key.benchmark, "")]:
            made.setdefault(place, []).append(peer)
    return made


def principal(found: Sequence[Entry]) -> list[Entry]:
    """For each row and preset the one entry that stands for it: the end of its training, as it is meant to be used.

    What varies beside that has tables of its own: algorithms, weights, representations, budgets, steps.
    """
    weights = Counter(_weighted(e) for e in found for _ in e.runs)
    chosen: dict[tuple[Row, str | None, str], Entry] = {}
    for entry in found:
        place = (entry.key.row, entry.key.preset, entry.key.apart)
        if place not in chosen or _rank(entry, weights) > _rank(chosen[place], weights):
            chosen[place] = entry
    return sorted(chosen.values(), key=lambda e: (ROWS.index(e.key.row), e.key.preset or "", e.key.apart))


def _weighted(entry: Entry) -> tuple[object, ...]:
    """The weights of the reward within a preset: those that most of its runs have are the preset's own."""
    key = entry.key
    return (key.row, key.preset, key.consistency_weight, key.hard_weight)


def _rank(entry: Entry, weights: Counter[tuple[object, ...]]) -> tuple[float, ...]:
    key = entry.key
    direct = key.row in ("base", "contrastive", "simcse")
    wanted = ("direct", "input", "mean") if direct else ("mean", "rationale", "input", "last", "direct")
    name = key.representation or ""
    return (
        key.algorithm == "grpo",
        weights[_weighted(entry)],
        float("inf") if key.step is None else key.step,
        -(wanted.index(name) if name in wanted else len(wanted)),
        key.budget or 0,
    )


def names(found: Sequence[Entry], *, also: Sequence[str] = ()) -> list[str]:
    """A name for each line: its row, and what tells it apart from the others of that row; `also` is always said."""
    made = []
    for entry in found:
        rivals = [other.key for other in found if other.key.row == entry.key.row]
        parts = [entry.label if entry.key.row == "peer" else ROW_TITLES[entry.key.row]]
        for name, form in _APART:
            value = getattr(entry.key, name)
            told = name in also or len({getattr(key, name) for key in rivals}) > 1
            if value not in (None, "") and told and not (entry.key.row == "peer" and name == "apart"):
                parts.append(form.format(value))
        made.append(" · ".join(parts))
    return made


def categories(found: Sequence[Entry]) -> dict[str, list[str]]:
    """Tasks by category, in the paper's order; every task that any of the entries was asked for."""
    tasks = list(dict.fromkeys(task for entry in found for task in entry.expected))
    of = {task: next((c for e in found if (c := e.category(task))), "Not run") for task in tasks}
    order = [*CATEGORIES, *sorted(set(of.values()) - set(CATEGORIES))]
    grouped = {name: [task for task in tasks if of[task] == name] for name in order}
    return {name: some for name, some in grouped.items() if some}


def scored(entry: Entry, tasks: Sequence[str], resamples: int, *, spread: bool = False) -> Cell:
    """The mean over tasks; it says so where some of them are missing, or were seen in training."""
    figure = mean(entry, tasks, resamples)
    leaks = [task for task in tasks if any(record.leaks for record in entry.records(task))]
    if figure is None:
        return Cell("–", note=_missing(entry, tasks) if tasks else "")
    notes = [] if figure.tasks == len(tasks) else [f"{figure.tasks} of {len(tasks)} tasks: {_missing(entry, tasks)}"]
    if leaks:
        notes.append(f"texts seen in training: {', '.join(leaks)}")
    mark = ("†" if figure.tasks < len(tasks) else "") + ("‡" if leaks else "")
    return Cell(f"{figure.value:.2f}{mark}", figure.value, figure.interval if spread else None, note="; ".join(notes))


def _missing(entry: Entry, tasks: Sequence[str]) -> str:
    without = [task for task in tasks if entry.score(task) is None]
    failed = [task for task in without if any(r.status == "failed" for r in entry.records(task))]
    said = [f"failed {', '.join(failed)}"] if failed else []
    if never := [task for task in without if task not in failed]:
        said.append(f"not run {', '.join(never)}")
    return "; ".join(said)


def with_best(found: Sequence[Entry], cells: list[list[Cell]], columns: list[list[str]], resamples: int) -> None:
    """Make bold, in place, the best figure of each column where it differs from every other line's for certain.

    `columns` are the tasks of each. A figure over fewer tasks than were asked for is never bold, nor is any where a
    rival has none; a peer need not have all, since some can do but one kind of task.
    """
    for column, tasks in enumerate(columns):
        ranked = sorted(
            (i for i in range(len(found)) if cells[i][column].value is not None),
            key=lambda i: -(cells[i][column].value or 0.0),
        )
        absent = (i for i in range(len(found)) if i not in ranked)
        if len(ranked) < 2 or any(found[i].key.row != "peer" for i in absent):
            continue
        best = ranked[0]
        gaps = [difference(found[best], found[i], tasks, resamples) for i in ranked[1:]]
        whole = "†" not in cells[best][column].text
        if whole and all(gap is not None and gap.interval is not None and gap.interval.low > 0 for gap in gaps):
            cell = cells[best][column]
            cells[best][column] = Cell(cell.text, cell.value, cell.interval, True, cell.note, cell.shade)


def signed(figure: Figure | None, *, better: int = 1) -> Cell:
    """A difference with its interval; bold where the interval leaves out zero."""
    if figure is None:
        return Cell("–")
    certain = figure.interval is not None and figure.interval.excludes_zero
    note = "" if figure.interval else "no interval: neither items nor seeds to resample"
    if figure.interval and figure.fixed:
        note = f"{figure.fixed} of {figure.tasks} tasks have no items: their spread is not in the interval"
    return Cell(f"{figure.value:+.2f}", figure.value, figure.interval, certain, note)


def same_training(one: Key, other: Key) -> bool:
    """Whether two entries are of one training, whatever they are read out with."""

    def training(key: Key) -> Key:
        return key._replace(representation=None, budget=None, step=None)

    return training(one) == training(other)
