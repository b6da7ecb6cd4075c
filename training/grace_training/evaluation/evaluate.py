"""Run a model on tasks, one by one, and leave a result for each: done or failed, never missing.

mteb loads, scores and writes its own files; around it, texts are counted and compared with training data, items are
kept for intervals, and the run's record is written after every task, so that a kill loses one task at most.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mteb
from mteb.abstasks import AbsTask, AbsTaskRetrieval
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.cache import ResultCache
from mteb.models import EncoderProtocol
from mteb.results import TaskResult
from tqdm.auto import tqdm

from grace_training.errors import BadRecipe
from grace_training.evaluation.items import Collector
from grace_training.evaluation.leaks import TrainingTexts, named_leaks
from grace_training.evaluation.listening import Listener, run_through
from grace_training.evaluation.observing import Observed, ObservedSearch, Texts
from grace_training.evaluation.results import (
    OWN,
    RUN,
    Counts,
    Group,
    Items,
    Leak,
    Run,
    TaskRecord,
    items_path,
    read_run,
    run_name,
    write_items,
    write_run,
)

_BATCH = 256  # texts in one of mteb's batches; the engine sees a stream


@dataclass(frozen=True, slots=True)
class Harness:
    """What all runs of one command share."""

    out: Path
    benchmark: str = ""
    members: Collection[str] = ()  # all tasks of the benchmark, asked for or not; empty: not known
    training: TrainingTexts | None = None
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # task -> file -> SHA-256
    subsampled: Mapping[str, int] = field(default_factory=dict)  # task -> how many samples it has in full
    prepare: Callable[[AbsTask], None] | None = None  # before a task is scored: a peer may have to be fitted
    overwrite: bool = False
    show_progress: bool = True

    def run(
        self,
        run: Run,
        model: Any,
        tasks: Sequence[AbsTask],
        *,
        measure: Callable[[Run], Run] | None = None,
        count: Callable[[], Counts | None] = lambda: None,
    ) -> Run:
        """Evaluate a model on tasks; what this benchmark's run already holds of them is kept, unless it failed.

        `count` tells what was asked of the model so far; a task's record keeps what it added. `measure` adds to the
        run what is known after a task; it is called after every one that was scored.
        """
        folder, path = self.folder(model), self.path(model)
        self._rename_older(path)
        if path.exists() and not self.overwrite:
            run = _gone_on_with(read_run(path), run)
        names = [task.metadata.name for task in tasks]
        run = replace(run, benchmark=self.benchmark, expected=tuple(dict.fromkeys([*run.expected, *names])))
        with tqdm(tasks, unit="task", disable=not self.show_progress) as bar:
            for task in bar:
                bar.set_description(task.metadata.name)
                if self._is_done(run, task, model):
                    run = self._compared(run, task, model)
                else:
                    before = count()
                    record, groups = self._one(fresh(task), model, run.data)
                    write_items(Items(record.task, record.metric, groups), folder, name=path.name)
                    run = run.with_task(_with_counts(record, before, count()))
                    run = measure(run) if measure else run
                write_run(run, folder, name=path.name)
        write_run(run, folder, name=path.name)
        return run

    def path(self, model: Any) -> Path:
        """Where this benchmark's run of this model is kept."""
        return self.folder(model) / OWN / run_name(self.benchmark)

    def folder(self, model: Any) -> Path:
        """Where mteb keeps this model's results."""
        return ResultCache(self.out).get_task_result_path("task", model.mteb_model_meta).parent

    def _rename_older(self, path: Path) -> None:
        """Go on with a `run.json` of this benchmark, from when all benchmarks shared one.

        It may hold tasks of another that was run before. They stay behind: under this name they were wrong.
        """
        old = path.with_name(RUN)
        if old == path or not old.exists() or (run := read_run(old)).benchmark != self.benchmark:
            return
        if not path.exists():
            names = {name for name in run.expected if not self.members or name in self.members}
            for name in names:
                if (items := items_path(old, name)).exists():
                    items_path(path, name).parent.mkdir(exist_ok=True)
                    items.replace(items_path(path, name))
            expected = tuple(name for name in run.expected if name in names)
            tasks = tuple(record for record in run.tasks if record.task in names)
            samples = tuple(sample for sample in run.samples if not sample.task or sample.task in names)
            kept = replace(run, expected=expected, tasks=tasks, samples=samples)
            write_run(kept, path.parent.parent, name=path.name)
        old.unlink()

    def _is_done(self, run: Run, task: AbsTask, model: Any) -> bool:
        """Whether the run has a score, and mteb's file says that it is of the same data, splits and subsets."""
        record = run.record(task.metadata.name)
        if self.overwrite or record is None or record.status != "done":
            return False
        stored = ResultCache(self.out).load_task_result(task.metadata.name, model.mteb_model_meta)
        if stored is None or stored.dataset_revision != task.metadata.dataset["revision"]:
            return False
        scored = {split: {entry["hf_subset"] for entry in entries} for split, entries in stored.scores.items()}
        if isinstance(task, AbsTaskAggregate):  # what it combines has splits and subsets of its own
            return scored == {split: {"default"} for split in task.metadata.eval_splits}
        return scored == {split: set(task.hf_subsets) for split in task.eval_splits}

    def _compared(self, run: Run, task: AbsTask, model: Any) -> Run:
        """The run with a kept task's leaks looked for in the training data given now, unless they were; scores stay.

        Texts that cannot be had any more are said, and looked for again the next time.
        """
        record = run.record(task.metadata.name)
        if record is None or self.training is None or record.compared_with == self.training.fingerprint:
            return run
        try:
            leaks = self._looked_for(fresh(task), model, self.training)
        except Exception as error:  # noqa: BLE001 - whatever stops one task must not take the others along
            reason = f"{type(error).__name__}: {error}"
            print(f"grace-eval: {record.task}: not compared with the training data: {reason}", file=sys.stderr)
            return run
        return run.with_task(replace(record, leaks=leaks, compared_with=self.training.fingerprint))

    def _looked_for(self, task: AbsTask, model: Any, training: TrainingTexts) -> tuple[Leak, ...]:
        """The leaks of a task without a score: a listener hears what any encoder hears; a search is run again."""
        if isinstance(task, AbsTaskAggregate):
            parts = (self._looked_for(fresh(part), model, training) for part in task.metadata.tasks)
            return tuple(leak for leaks in parts for leak in leaks)
        texts = Texts()
        encodes = isinstance(model, EncoderProtocol)
        run_through(Listener(lambda piece, _: texts.see(piece)) if encodes else ObservedSearch(model, texts), task)
        return training.leaks(texts.keys())

    def _one(self, task: AbsTask, model: Any, card: Mapping[str, str]) -> tuple[TaskRecord, tuple[Group, ...]]:
        """A task's record and items. Whatever it raises is its reason for having failed."""
        meta, started = task.metadata, time.perf_counter()
        record = TaskRecord(
            task=meta.name,
            category=str(meta.type),
            metric=meta.main_score,
            status="failed",
            superseded_by=task.superseded_by,
            subsampled_from=self.subsampled.get(meta.name),
        )
        try:
            if isinstance(task, AbsTaskAggregate):
                return self._aggregate(record, task, model, card)
            result, groups, texts = self._scored(task, model)
            score = float(result.get_score())
            if not math.isfinite(score):
                raise ValueError(f"{meta.main_score} is not a number: are all vectors alike?")
        except Exception as error:  # noqa: BLE001 - see above; only an interrupt goes through
            reason = f"{type(error).__name__}: {error}".strip().rstrip(":")
            return replace(record, reason=reason, seconds=time.perf_counter() - started), ()
        record = replace(
            record,
            status="done",
            score=score,
            samples=sum(len(group.values) or len(group.gold) for group in groups) or _samples(task),
            texts=len(texts),
            seconds=round(time.perf_counter() - started, 3),
            leaks=self._leaks(meta.name, texts, card),
            compared_with=self._compared_with,
        )
        return record, groups

    def _scored(self, task: AbsTask, model: Any) -> tuple[TaskResult, tuple[Group, ...], Texts]:
        texts = Texts()
        if not task.data_loaded:
            task.load_data()
        if self.prepare is not None:
            self.prepare(task)
        encodes = isinstance(model, EncoderProtocol)
        if not encodes and not isinstance(task, AbsTaskRetrieval):
            raise BadRecipe("a model without vectors can do retrieval and reranking alone")
        observed: Any = Observed(model, texts) if encodes else ObservedSearch(model, texts)
        with tempfile.TemporaryDirectory() as folder:
            collector = Collector(task, Path(folder))
            result = mteb.evaluate(
                observed,
                task,
                cache=ResultCache(self.out),
                overwrite_strategy="always",
                encode_kwargs={"batch_size": _BATCH, "show_progress_bar": False},
                prediction_folder=collector.prediction_folder,
                show_progress_bar=False,
                co2_tracker=False,
            ).task_results[0]
            return result, collector.groups(result.scores), texts

    def _aggregate(
        self, record: TaskRecord, task: AbsTaskAggregate, model: Any, card: Mapping[str, str]
    ) -> tuple[TaskRecord, tuple[Group, ...]]:
        """A task that is the mean of others, CQADupstack: all of them, or failed."""
        parts, groups = [], []
        for part in task.metadata.tasks:
            done, items = self._one(fresh(part), model, card)
            if done.status == "failed":
                return replace(record, reason=f"{done.task}: {done.reason}"), ()
            parts.append(done)
            groups += [replace(group, name=f"{done.task} {group.name}") for group in items]
        stored = [ResultCache(self.out).load_task_result(p.task, model.mteb_model_meta) for p in parts]
        combined = task.combine_task_results([result for result in stored if result is not None])
        ResultCache(self.out).save_to_cache(combined, model.mteb_model_meta)
        record = replace(
            record,
            status="done",
            score=float(combined.get_score()),
            samples=sum(part.samples for part in parts),
            texts=sum(part.texts for part in parts),
            seconds=sum(part.seconds for part in parts),
            leaks=tuple(leak for part in parts for leak in part.leaks),
            compared_with=self._compared_with,
        )
        return record, tuple(groups) if len(groups) == len(parts) else ()

    @property
    def _compared_with(self) -> str:
        return "" if self.training is None else self.training.fingerprint

    def _leaks(self, task: str, texts: Texts, card: Mapping[str, str]) -> tuple[Leak, ...]:
        if self.training is not None:
            return self.training.leaks(texts.keys())
        return named_leaks(task, self.sources.get(task, {}), card, texts=len(texts))


def fresh(task: AbsTask) -> AbsTask:
    """A copy of a task that was not run yet: some draw their samples as they go, and every model must get the same."""
    return copy.deepcopy(task)


def _gone_on_with(earlier: Run, run: Run) -> Run:
    """A run that begins with what an earlier process left of it."""
    return replace(
        run,
        tasks=earlier.tasks,
        samples=earlier.samples,
        texts_per_s=earlier.texts_per_s,
        rationale_tokens=earlier.rationale_tokens,
        expected=earlier.expected,
        settings={**earlier.settings, **run.settings},
    )


def _with_counts(record: TaskRecord, before: Counts | None, after: Counts | None) -> TaskRecord:
    """A record with what its task asked of the model; what a failed one asked counts no more than its score."""
    if record.status == "failed" or before is None or after is None:
        return record
    return replace(record, counts=after - before)


def _samples(task: AbsTask) -> int:
    data: Any = task.dataset
    parts = data.values() if task.metadata.is_multilingual else [data]
    return sum(len(part[split]) for part in parts for split in task.eval_splits if split in part)
