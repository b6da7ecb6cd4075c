"""`grace-eval local`: suites from JSON lines, the shipped one or a person's own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from grace_training.evaluation import opening

if TYPE_CHECKING:
    from grace_training.evaluation.suites import Suite

EPILOG = """\
suites:
  small      shipped, seven categories, minutes on a CPU (the default)
  public     a description of public sets; give the folder that holds them with --data
  FILE       a suite.json, whose files lie beside it or under --data
a folder with corpus.jsonl, queries.jsonl and qrels.tsv needs no suite.json: --data FOLDER
the fields of each category: docs/evaluation.md
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    p = commands.add_parser(
        "local",
        help="suites from JSON lines, and the shipped one",
        description="Evaluate on a suite from JSON lines.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--suite", metavar="NAME|FILE", help="a shipped suite, or a suite.json (small)")
    p.add_argument("--data", type=Path, metavar="FOLDER", help="where its files are, or a suite of its own")
    p.add_argument("--limit", type=int, help="draw so many samples per task, always the same ones")
    p.add_argument("--tasks", help="only these, separated by commas")
    p.add_argument("--categories", help="only these, separated by commas")
    opening.add_model_arguments(p)
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate; 1 when a task failed."""
    from grace_training.errors import BadRecipe
    from grace_training.evaluation.commanding import evaluate

    if options.limit is not None and options.limit < 1:
        raise BadRecipe("--limit must be at least 1")
    suite = find(options)
    tasks, full = suite.tasks(limit=options.limit)
    sources = {spec.name: spec.sources for spec in suite.specs}
    return evaluate(options, tasks, suite.name, sources=sources, subsampled=full, missing=suite.missing)


def find(options: argparse.Namespace) -> Suite:
    """The suite that was asked for.

    Raises:
        BadData: there is none, or it is not one.
    """
    from grace_training.evaluation.suites import SHIPPED, load_suite

    description: Path | None = None
    if options.suite is not None:
        shipped = {path.stem: path for path in SHIPPED.glob("*.json")} | {
            path.parent.name: path for path in SHIPPED.glob("*/suite.json")
        }
        description = shipped.get(options.suite, Path(options.suite))
    elif options.data is not None and not (options.data / "suite.json").exists():
        from grace_training.evaluation.suites import is_public

        description = SHIPPED / "public.json" if is_public(options.data) else None
    return load_suite(description, options.data)
