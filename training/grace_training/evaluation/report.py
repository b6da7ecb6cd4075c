"""`grace-eval report`: the paper's tables, from results folders."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from grace_training.evaluation import report_analysis, report_cases, report_general, report_tables, report_training
from grace_training.evaluation.report_entries import Entry, entries
from grace_training.evaluation.report_html import html
from grace_training.evaluation.report_markdown import long_csv, markdown
from grace_training.evaluation.report_page import Cell, Line, Page, Section, Table
from grace_training.evaluation.report_resample import RESAMPLES
from grace_training.evaluation.report_rows import ROW_TITLES, embedding
from grace_training.evaluation.results import BadResults, runs


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    p = commands.add_parser("report", help="tables and plots from results folders", description=__doc__)
    p.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="results folders")
    p.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE",
        help="the page (default report.html); FILE.md and FILE.csv are written beside it",
    )  # fmt: skip
    p.add_argument("--title", default="GRACE: evaluation", help="of the page")
    p.add_argument(
        "--resamples", type=int, default=RESAMPLES, help=f"of the bootstrap (default {RESAMPLES}; 0: no intervals)"
    )
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the report; 0, also when tasks failed: then it says so."""
    page = build(options.folders, title=options.title, resamples=options.resamples)
    out: Path = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".html", html(page)), (".md", markdown(page)), (".csv", long_csv(page))):
        path = out.with_suffix(suffix)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


def build(folders: Sequence[Path], *, title: str = "GRACE: evaluation", resamples: int = RESAMPLES) -> Page:
    """The report of all runs under the folders.

    Raises:
        BadResults: a folder is not there, holds no run, or a file in it is damaged.
    """
    for folder in folders:
        if not folder.is_dir():
            raise BadResults(f"{folder}: no such folder")
    found = entries(dict(pair for folder in folders for pair in runs(folder)).items())
    analyses = report_analysis.sections(list(folders))
    if not found and not analyses:
        raise BadResults(f"{', '.join(map(str, folders))}: no results of grace-eval here")
    sections: list[Section] = []
    if limits := report_tables.trouble(found):
        sections.append(limits)
    if shown := embedding(found):
        sections.append(report_tables.main_section(shown, resamples))
        sections += report_training.sections(shown, resamples)
    if general := report_general.section(found, resamples):
        sections.append(general)
    sections += analyses
    if cases := report_cases.section(found):
        sections.append(cases)
    if found:
        sections.append(_runs(found))
    return Page(title, _summary(found), tuple(sections))


def _summary(found: Sequence[Entry]) -> tuple[str, ...]:
    every = [seeded.run for entry in found for seeded in entry.runs]
    done = sum(record.status == "done" for run in every for record in run.tasks)
    missing = sum(len(set(run.expected)) - sum(r.status == "done" for r in run.tasks) for run in every)
    said = f"{len(every)} run{'s' * (len(every) > 1)}, {done} scored tasks"
    said += f"; {missing} failed or missing, listed below." if missing > 0 else "; none failed."
    return (
        said,
        "Scores are times 100, as in the paper. Small figures below a score are the ends of its 95 % bootstrap "
        "interval, over items, and over seeds where there are several; few seeds make it too narrow. Tasks are not "
        "resampled: an interval is about these tasks. Bold: the best of its column, or a difference, where the "
        "interval leaves out zero.",
    )


def _runs(found: Sequence[Entry]) -> Section:
    lines = []
    for entry in found:
        for seeded in entry.runs:
            known = seeded.run
            done = sum(record.status == "done" for record in known.tasks)
            settings = ", ".join(f"{k} {v}" for k, v in known.settings.items() if v is not None)
            told = (
                known.label, known.backbone, known.benchmark, known.preset, known.algorithm, known.consistency_weight,
                known.hard_weight, known.representation, known.budget, known.step, known.seed,
                f"{done} of {len(set(known.expected))}", known.texts_per_s and f"{known.texts_per_s:.1f}",
                known.fingerprint[:12], settings, known.machine, known.started_at,
            )  # fmt: skip
            cells = tuple(Cell("–" if value in (None, "") else str(value)) for value in told)
            lines.append(Line(ROW_TITLES[known.row], cells))
    columns = (
        "Label", "Backbone", "Benchmark", "Preset", "Algorithm", "λ₁", "λ₂", "Read out", "Budget", "Step", "Seed",
        "Tasks", "Texts/s", "Fingerprint", "Settings", "Machine", "Started",
    )  # fmt: skip
    return Section("runs", "Runs", (), (Table("runs", "What was run", "Row", columns, tuple(lines), one_line=True),))
