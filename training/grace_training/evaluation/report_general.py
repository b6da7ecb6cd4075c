"""General ability: what a model still does as a language model, with the change against its base."""

from __future__ import annotations

from collections.abc import Sequence

from grace_training.evaluation import report_published as published
from grace_training.evaluation.general_tasks import MINIATURE, PAPER, TASKS
from grace_training.evaluation.report_entries import PLAIN_METRICS, Entry, difference, mean
from grace_training.evaluation.report_page import Block, Cell, Line, Section, Table
from grace_training.evaluation.report_rows import ROW_TITLES, groups, names, principal, scored, signed
from grace_training.evaluation.results import GENERAL


def section(found: Sequence[Entry], resamples: int) -> Section | None:
    """One table per backbone; none without runs."""
    blocks: list[Block] = []
    general = [entry for entry in found if entry.key.benchmark == GENERAL]
    for number, ((_, backbone), some) in enumerate(groups(general).items()):
        blocks += _tables(f"general-{number}", backbone, principal(some), resamples)
    if not blocks:
        return None
    return Section("general", "General ability", (), tuple(blocks))


def _tables(name: str, backbone: str, chosen: list[Entry], resamples: int) -> list[Block]:
    asked = {task for entry in chosen for task in entry.expected}
    averaged = [task for task in TASKS if task in asked and task not in MINIATURE]
    alone = [task for task in TASKS if task in asked and task in MINIATURE]
    base = next((entry for entry in chosen if entry.key.row == "base"), None)
    blocks: list[Block] = []
    if averaged:
        blocks.append(_one(name, backbone, chosen, base, averaged, resamples, average=True))
    if alone:
        blocks.append(_one(f"{name}-miniature", f"{backbone}, in miniature", chosen, base, alone, resamples))
    return blocks


def _one(
    name: str,
    title: str,
    chosen: list[Entry],
    base: Entry | None,
    tasks: list[str],
    resamples: int,
    *,
    average: bool = False,
) -> Table:
    lines, notes = [], []
    with_published = average and set(tasks) & set(PAPER)
    for entry, label in zip(chosen, names(chosen), strict=True):
        cells = [_score(entry, task, resamples) for task in tasks]
        if average:
            cells.append(scored(entry, tasks, resamples, spread=True))
            cells.append(Cell("") if entry is base else _change(entry, base, tasks, resamples))
        judged = [record.samples for task in tasks for record in entry.records(task)[:1]]
        said = f"{len(entry.runs)} run{'s' * (len(entry.runs) > 1)}, {sum(judged)} items"
        lines.append(Line(label, tuple(cells), note=said))
        if base is not None and entry is not base:
            changes = [_change(entry, base, [task], resamples) for task in tasks]
            lines.append(Line(f"{label} − Base", (*changes, *([Cell("")] * (2 if average else 0)))))
        beside = published.general(title, entry.key.row) if with_published else None
        if beside:
            printed = [Cell(f"{f:.2f}", f) if (f := beside.scores.get(t)) is not None else Cell("–") for t in tasks]
            before = published.general(title, "base")
            change = beside.average - before.average if before and entry.key.row != "base" else None
            printed += [Cell(f"{beside.average:.2f}", beside.average)]
            printed += [Cell("") if change is None else Cell(f"{change:+.2f}", change)]
            lines.append(Line(f"{ROW_TITLES[entry.key.row]}, published", tuple(printed), kind="published"))
            notes = ["Published figures as printed; how they were prompted is not published."]
    if "perplexity" in tasks:
        notes.append("Perplexity per token of held-out text: smaller is better, and only one tokenizer's compare.")
    if "summaries" in tasks:
        notes.append("ROUGE-L of the understanding against a written summary.")
    if any("†" in cell.text for line in lines for cell in line.cells):
        notes.append("† Over fewer tasks than were asked for; such an average is not comparable with a full one.")
    notes.append("Differences are paired over items, with 95 % intervals; bold where zero is outside.")
    heads = tuple(TASKS[task].title for task in tasks)
    return Table(name, title, "Row", (*heads, *(("Avg.", "Change") if average else ())), tuple(lines), tuple(notes))


def _score(entry: Entry, task: str, resamples: int) -> Cell:
    failed = next((record for record in entry.records(task) if record.status == "failed"), None)
    if failed is not None:
        return Cell("failed", note=failed.reason or "")
    figure = mean(entry, [task], resamples)
    return Cell("–", note="not run") if figure is None else Cell(f"{figure.value:.2f}", figure.value, figure.interval)


def _change(entry: Entry, base: Entry | None, tasks: list[str], resamples: int) -> Cell:
    if base is None:
        return Cell("–", note="no run of the base model")
    cell = signed(difference(entry, base, tasks, resamples))
    if len(tasks) == 1 and TASKS[tasks[0]].metric in PLAIN_METRICS and (before := base.score(tasks[0])) and cell.value:
        return Cell(
            f"{cell.text} ({100 * cell.value / before:+.1f} %)", cell.value, cell.interval, cell.bold, cell.note
        )
    return cell
