"""What `grace-eval mteb` and `local` do with tasks: evaluate, embed a share of the texts, or tell the cost."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from mteb.abstasks import AbsTask

from grace.representation import Role
from grace_training.errors import BadRecipe
from grace_training.evaluation import report
from grace_training.evaluation.evaluate import Harness, fresh
from grace_training.evaluation.leaks import TrainingTexts
from grace_training.evaluation.listening import listen
from grace_training.evaluation.opening import Variant, measured, open_variants
from grace_training.evaluation.report_resample import RESAMPLES
from grace_training.evaluation.results import Run


def evaluate(
    options: argparse.Namespace,
    tasks: Sequence[AbsTask],
    benchmark: str,
    *,
    sources: Mapping[str, Mapping[str, str]] | None = None,
    subsampled: Mapping[str, int] | None = None,
    missing: Sequence[str] = (),
) -> int:
    """Run every variant on the tasks that the options choose; 1 when one failed."""
    _quieten()
    members = {*(task.metadata.name for task in tasks), *missing}
    tasks = chosen(tasks, options)
    for name in missing:
        print(f"grace-eval: {name} is left out: its files are not there", file=sys.stderr)
    if options.dry_run:
        from grace_training.evaluation.plan import plan

        print("\n".join(plan(options, tasks)))
        return 0
    training = TrainingTexts(options.training_data) if options.training_data else None
    failed = False
    with open_variants(options) as variants:
        if options.shard:
            return _embed(variants, tasks, options)
        for variant in variants:
            harness = Harness(
                out=options.out,
                benchmark=benchmark,
                members=members,
                training=training,
                sources=sources or {},
                subsampled=subsampled or {},
                prepare=getattr(variant.model, "prepare", None),
                overwrite=options.overwrite,
                show_progress=not options.quiet,
            )
            measure = partial(measured, variant)
            run = harness.run(variant.run, variant.model, tasks, measure=measure, count=variant.counts)
            print("\n".join(table(run, [task.metadata.name for task in tasks])))
            print(f"results: {harness.path(variant.model)}\n")
            failed |= any(record.status == "failed" for record in run.tasks)
    if not options.no_report:
        out, title = options.out / "report.html", f"GRACE: {benchmark}"
        report.run(argparse.Namespace(folders=[options.out], out=out, title=title, resamples=RESAMPLES))
    return int(failed)


def chosen(tasks: Sequence[AbsTask], options: argparse.Namespace) -> list[AbsTask]:
    """The tasks that --tasks and --categories leave.

    Raises:
        BadRecipe: a name is none of them, or nothing is left.
    """
    kept = list(tasks)
    for option, of in (("tasks", lambda t: t.metadata.name), ("categories", lambda t: str(t.metadata.type))):
        value = getattr(options, option)
        if value is None:
            continue
        wanted, there = value.split(","), {of(task).lower() for task in kept}
        if unknown := [name for name in wanted if name.lower() not in there]:
            raise BadRecipe(f"--{option}: {unknown[0]!r} is not among {', '.join(sorted({of(t) for t in kept}))}")
        kept = [task for task in kept if of(task).lower() in {name.lower() for name in wanted}]
    return kept


def table(run: Run, names: Sequence[str]) -> list[str]:
    """The scores of a run in lines, failures with their reasons, and an average that says of how many."""
    lines = [f"{run.label} · {run.row}" + (f" · {run.representation}" if run.representation else "")]
    if run.budget is not None:
        lines[0] += f" · at most {run.budget} tokens of rationale"
    records = [record for name in names if (record := run.record(name)) is not None]
    for record in records:
        name = f"  {record.task:32.32} {record.category:18}"
        if record.score is None:
            lines.append(f"{name} failed: {record.reason}")
            continue
        whole = f" of {record.subsampled_from}" if record.subsampled_from else ""
        leak = "  trained on: " + ", ".join(dict.fromkeys(leak.source for leak in record.leaks)) if record.leaks else ""
        lines.append(f"{name} {100 * record.score:6.2f}  {record.metric:16} {record.samples}{whole}{leak}")
    done = [100 * record.score for record in records if record.score is not None]
    if done:
        every = "" if len(done) == len(names) else f" of {len(names)}: the others have no score"
        lines.append(f"  mean of {len(done)} tasks{every}: {sum(done) / len(done):.2f}")
    if run.texts_per_s is not None:
        tokens = "" if run.rationale_tokens is None else f", {run.rationale_tokens:.1f} rationale tokens a text"
        lines.append(f"  {run.texts_per_s:.1f} texts/s{tokens}")
    return lines


def _embed(variants: Sequence[Variant], tasks: Sequence[AbsTask], options: argparse.Namespace) -> int:
    """Embed this machine's share of all texts; the scores come from a run without --shard."""
    for variant in variants:
        embedder = variant.embedder
        if embedder is None:
            raise BadRecipe("--shard belongs to GRACE checkpoints")

        def hear(texts: Iterable[str], role: Role, embedder: object = embedder) -> None:
            embedder.places(texts, role)  # type: ignore[attr-defined]

        for task in tasks:
            listen(fresh(task), hear)
            print(f"{task.metadata.name}: {embedder.tally.texts} texts embedded so far", file=sys.stderr)
        if embedder.tally.texts:
            print(f"{embedder.tally.texts} texts, {embedder.tally.texts / embedder.tally.seconds:.1f} a second")
    return 0


def _quieten() -> None:
    """What mteb and its libraries say at every step; ours are the progress bars and the records."""
    warnings.filterwarnings("ignore", module=r"mteb|sklearn|datasets")
    for name in ("mteb", "datasets", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
