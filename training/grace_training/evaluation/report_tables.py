"""The paper's main tables: scores by category, differences, every task; and what failed, and what leaked."""

from __future__ import annotations

from collections.abc import Sequence

from grace_training.evaluation import report_published as published
from grace_training.evaluation.report_entries import Entry, difference
from grace_training.evaluation.report_page import Block, Cell, Line, Section, Table
from grace_training.evaluation.report_rows import (
    ROW_TITLES,
    SHORT,
    categories,
    groups,
    names,
    principal,
    scored,
    signed,
    with_best,
)
from grace_training.evaluation.results import CATEGORIES, Row

PAPER_BENCHMARK = "MTEB(eng, v1)"
# Whom each row is held against; the first that is there.
AGAINST: dict[Row, tuple[Row, ...]] = {
    "reasoning": ("base",),
    "contrastive": ("base",),
    "simcse": ("base",),
    "grace-supervised": ("base", "reasoning", "contrastive"),
    "grace-unsupervised": ("base", "reasoning", "simcse"),
}


def main_section(found: Sequence[Entry], resamples: int) -> Section:
    """Scores and differences, one pair of tables for each benchmark and backbone."""
    blocks: list[Block] = []
    for number, ((benchmark, backbone), some) in enumerate(groups(found).items()):
        chosen = principal(some)
        title = " · ".join(part for part in (benchmark, backbone) if part)
        blocks.append(_scores(f"main-{number}", title, benchmark, backbone, chosen, resamples))
        if table := _differences(f"differences-{number}", title, chosen, resamples):
            blocks.append(table)
        blocks.append(_tasks(f"tasks-{number}", title, chosen, resamples))
    return Section("main", "Representation quality", (), tuple(blocks))


def _scores(name: str, title: str, benchmark: str, backbone: str, chosen: list[Entry], resamples: int) -> Table:
    by_category = categories(chosen)
    every = [task for tasks in by_category.values() for task in tasks]
    columns = [*by_category.values(), every]
    cells = [[scored(entry, tasks, resamples, spread=tasks is every) for tasks in columns] for entry in chosen]
    with_best(chosen, cells, columns, resamples)
    lines, seen = [], set()
    for entry, label, row in zip(chosen, names(chosen), cells, strict=True):
        lines.append(Line(label, tuple(row), note=_about(entry)))
        beside = published.mteb(backbone, entry.key.row) if benchmark == PAPER_BENCHMARK else None
        if beside and entry.key.row not in seen:
            seen.add(entry.key.row)
            figures = [beside.scores.get(category) for category in by_category]
            lines.append(_printed(f"{ROW_TITLES[entry.key.row]}, published", figures, beside.average))
    notes = ["Average over tasks, with its interval.", *_marks(lines)]
    if seen:
        notes.append(
            f"Published: {published.source()['title']} ({published.source()['venue']}, arXiv "
            f"{published.source()['arxiv']}), as printed; none of it was measured here. The printed averages do not "
            f"follow from the printed categories{_recomputed(backbone, sorted(seen))}."
        )
    heads = (*(f"{SHORT.get(c, c)} {len(tasks)}" for c, tasks in by_category.items()), f"Avg. {len(every)}")
    return Table(name, title, "Row", heads, tuple(lines), tuple(notes))


def _recomputed(backbone: str, rows: list[str]) -> str:
    sizes = published.category_sizes()
    said = []
    for row in rows:
        if printed := published.mteb(backbone, row):
            total = sum(printed.scores[c] * sizes[c] for c in CATEGORIES) / sum(sizes.values())
            said.append(f"{ROW_TITLES[row]} {total:.2f}")  # type: ignore[index]
    return f" (over 56 tasks they come to {', '.join(said)})" if said else ""


def _printed(label: str, figures: Sequence[float | None], average: float) -> Line:
    cells = [Cell("–") if figure is None else Cell(f"{figure:.2f}", figure) for figure in (*figures, average)]
    return Line(label, tuple(cells), kind="published")


def _about(entry: Entry) -> str:
    seeds = [seed for seed in entry.seeds if seed is not None]
    many = len(entry.runs)
    said = [f"{many} seeds ({', '.join(map(str, seeds))})" if many > 1 else "1 run"]
    items = sum(record.samples for task in entry.expected for record in entry.records(task)[:1])
    said.append(f"{items:,} judged items".replace(",", " "))
    return ", ".join(said)


def _differences(name: str, title: str, chosen: list[Entry], resamples: int) -> Table | None:
    by_category = categories(chosen)
    every = [task for tasks in by_category.values() for task in tasks]
    labels = names(chosen)
    lines = []
    for entry, label in zip(chosen, labels, strict=True):
        for row in AGAINST.get(entry.key.row, ()):
            other = next((e for e in chosen if e.key.row == row), None)
            if other is None:
                continue
            cells = [signed(difference(entry, other, tasks, resamples)) for tasks in (*by_category.values(), every)]
            lines.append(Line(f"{label} − {ROW_TITLES[row]}", tuple(cells)))
    if not lines:
        return None
    notes = ["95 % intervals, paired over items where both runs have the same ones; bold where zero is outside."]
    return Table(
        name, f"Differences: {title}", "Difference", (*(SHORT.get(c, c) for c in by_category), "Avg."), tuple(lines),
        tuple(notes),
    )  # fmt: skip


def _tasks(name: str, title: str, chosen: list[Entry], resamples: int) -> Table:
    tasks = [task for some in categories(chosen).values() for task in some]
    cells = [[_one(entry, task, resamples) for task in tasks] for entry in chosen]
    with_best(chosen, cells, [[task] for task in tasks], resamples)
    lines = []
    for number, task in enumerate(tasks):
        records = [record for entry in chosen for record in entry.records(task)]
        judged = max((record.samples for record in records), default=0)
        whole = max((record.subsampled_from or 0 for record in records), default=0)
        note = f"{judged} of {whole} items" if whole else f"{judged} items" if judged else ""
        lines.append(Line(task, tuple(row[number] for row in cells), note=note))
    return Table(name, f"Every task: {title}", "Task", tuple(names(chosen)), tuple(lines), tuple(_marks(lines)))


def _one(entry: Entry, task: str, resamples: int) -> Cell:
    failed = next((record for record in entry.records(task) if record.status == "failed"), None)
    if failed is not None:
        return Cell("failed", note=failed.reason or "")
    cell = scored(entry, [task], resamples, spread=True)
    return cell if entry.records(task) else Cell("–", note="not run")


def _marks(lines: Sequence[Line]) -> list[str]:
    texts = [cell.text for line in lines for cell in line.cells]
    said = []
    if any("†" in text for text in texts):
        said.append("† Over fewer tasks than were asked for; such an average is not comparable with a full one.")
    if any("‡" in text for text in texts):
        said.append("‡ Texts of these tasks were in the training data.")
    return said


def trouble(found: Sequence[Entry]) -> Section | None:
    """Failed tasks with their reasons, and leaks: what a reader has to know before believing a figure."""
    failed: dict[tuple[str, ...], list[int | None]] = {}
    leaked: dict[tuple[str, ...], list[int | None]] = {}
    for entry, label in zip(found, names(found), strict=True):
        where = (label, entry.key.backbone)
        for run in (seeded.run for seeded in entry.runs):
            for record in run.tasks:
                if record.status == "failed":
                    failed.setdefault((record.task, record.reason or "no reason given", *where), []).append(run.seed)
                for leak in record.leaks:
                    share = "named by the card" if leak.texts is None else f"{leak.texts} of {leak.of}"
                    leaked.setdefault((record.task, *where, leak.source, share), []).append(run.seed)
            for task in run.expected:
                if run.record(task) is None:
                    failed.setdefault((task, "was asked for, and not run", *where), []).append(run.seed)
    blocks: list[Block] = []
    if failed:
        heads = ("Reason", "Run", "Backbone", "Seeds")
        blocks.append(Table("failed", "Failed or missing tasks", "Task", heads, _told(failed)))
    if leaked:
        columns = ("Run", "Backbone", "Training data", "Texts seen", "Seeds")
        blocks.append(Table("leaks", "Texts that were trained on", "Task", columns, _told(leaked)))
    return Section("trouble", "What limits these figures", (), tuple(blocks)) if blocks else None


def _told(rows: dict[tuple[str, ...], list[int | None]]) -> tuple[Line, ...]:
    """Once what is alike for several seeds."""
    return tuple(
        Line(task, tuple(map(Cell, (*rest, ", ".join("–" if seed is None else str(seed) for seed in seeds)))))
        for (task, *rest), seeds in rows.items()
    )
