"""`grace-eval mteb`: mteb's benchmarks and tasks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from grace_training.evaluation import opening

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

DEFAULT = "MTEB(eng, v2)"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    p = commands.add_parser("mteb", help="benchmarks and tasks of mteb", description="Evaluate on mteb's tasks.")
    p.add_argument(
        "--benchmark", metavar="NAME", help=f'"MTEB(eng, v1)" is the paper\'s; {DEFAULT} unless --tasks is given'
    )
    p.add_argument("--tasks", help="only these, separated by commas; without --benchmark, any of mteb's English tasks")
    p.add_argument("--categories", help="only these, separated by commas: Retrieval, Reranking, Clustering, ...")
    opening.add_model_arguments(p)
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Evaluate; 1 when a task failed.

    Raises:
        BadRecipe: mteb knows no such benchmark or task.
    """
    import mteb

    from grace_training.errors import BadRecipe
    from grace_training.evaluation.commanding import evaluate

    try:
        if options.benchmark is None and options.tasks is not None:
            # English alone: a bare name would bring every language and split of a task.
            tasks: Sequence[AbsTask] = mteb.get_tasks(
                tasks=options.tasks.split(","), languages=["eng"], exclusive_language_filter=True
            )
            name = options.tasks
            options.tasks = None
        else:
            benchmark = mteb.get_benchmark(options.benchmark or DEFAULT)
            # The benchmark's own objects: they carry its languages, subsets and splits.
            tasks, name = benchmark.tasks, benchmark.name
    except (KeyError, ValueError) as error:
        raise BadRecipe(f"mteb: {error}") from error
    return evaluate(options, list(tasks), name)
