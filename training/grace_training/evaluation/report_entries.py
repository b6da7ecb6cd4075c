"""Runs as a table needs them: seeds of one training together, scores in points, the spread of each.

An entry is one row of a table. Runs that differ in their seed alone are one entry; two runs that differ in nothing that
is written down are told apart by label and fingerprint, never averaged.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from grace_training.evaluation.report_resample import Interval, draws, interval, over_seeds
from grace_training.evaluation.report_statistics import Floats
from grace_training.evaluation.results import GENERAL, RepresentationName, Row, Run, TaskRecord, read_items

IN_POINTS = 100.0  # scores are shown times 100, as the paper does
PLAIN_METRICS = ("perplexity",)  # shown as they are; smaller is better


class Key(NamedTuple):
    """What makes two runs the same row of a table."""

    benchmark: str
    backbone: str
    row: Row
    preset: str | None
    algorithm: str | None
    consistency_weight: float | None
    hard_weight: float | None
    representation: RepresentationName | None
    budget: int | None
    step: int | None
    apart: str = ""  # label or fingerprint, where nothing else tells two runs apart


@dataclass(frozen=True, slots=True)
class Seeded:
    """One run and where it was read."""

    path: Path
    run: Run


@dataclass
class Entry:
    """One row: its runs, one per seed."""

    key: Key
    runs: list[Seeded]
    _drawn: dict[str, Floats | None] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What its first run is called."""
        return self.runs[0].run.label

    @property
    def seeds(self) -> list[int | None]:
        """One per run."""
        return [seeded.run.seed for seeded in self.runs]

    @property
    def expected(self) -> tuple[str, ...]:
        """Every task that any of its runs was asked for."""
        return tuple(dict.fromkeys(name for seeded in self.runs for name in seeded.run.expected))

    def records(self, task: str) -> list[TaskRecord]:
        """A task's records, one per run that has it."""
        found = (seeded.run.record(task) for seeded in self.runs)
        return [record for record in found if record is not None]

    def done(self) -> list[str]:
        """Tasks that every run has a score for."""
        return [task for task in self.expected if self.score(task) is not None]

    def score(self, task: str) -> float | None:
        """The mean over seeds, in points; None unless every seed has one."""
        scores = [record.score for record in self.records(task) if record.status == "done"]
        if len(scores) < len(self.runs) or not scores:
            return None
        return scale(self.records(task)[0].metric) * float(np.mean([s for s in scores if s is not None]))

    def category(self, task: str) -> str:
        """The task's, as any run has it."""
        records = self.records(task)
        return records[0].category if records else ""

    def draws(self, task: str, resamples: int) -> Floats | None:
        """(R,) draws of the score, in points; None where nothing is known of how it could vary."""
        if task not in self._drawn:
            self._drawn[task] = self._draw(task, resamples)
        return self._drawn[task]

    def _draw(self, task: str, resamples: int) -> Floats | None:
        if resamples < 1:
            return None
        by_seed = []
        varies = len(self.runs) > 1
        for seeded in (ordered := sorted(self.runs, key=lambda seeded: seeded.run.seed or 0)):
            record, items = seeded.run.record(task), read_items(seeded.path, task)
            if record is None or record.score is None:
                return None
            varies = varies or items is not None
            by_seed.append(draws(items, resamples) if items else np.full(resamples, record.score))
        if not varies:
            return None
        # A seed is one trained model, good or bad at all tasks together, however it is read out. So the seeds that a
        # resample draws are those of the training, and the task has no say in them: only its items are its own.
        name = repr((_family(self.key), [seeded.run.seed for seeded in ordered]))
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return scale(self.records(task)[0].metric) * over_seeds(np.stack(by_seed), rng)


def scale(metric: str) -> float:
    """What a score is multiplied by to be shown."""
    return 1.0 if metric in PLAIN_METRICS else IN_POINTS


class Figure(NamedTuple):
    """A mean over tasks, or a difference of two, in points."""

    value: float
    interval: Interval | None
    tasks: int  # that it is over
    fixed: int  # of them without any spread: their part of the interval is missing


def mean(entry: Entry, tasks: Sequence[str], resamples: int) -> Figure | None:
    """The mean over those of the tasks that are done."""
    kept = [task for task in tasks if entry.score(task) is not None]
    return _figure([(1.0, entry)], kept, resamples)


def difference(a: Entry, b: Entry, tasks: Sequence[str], resamples: int) -> Figure | None:
    """Mean of `a` minus mean of `b` over the tasks that both have done."""
    kept = [task for task in tasks if a.score(task) is not None and b.score(task) is not None]
    return _figure([(1.0, a), (-1.0, b)], kept, resamples)


def _figure(parts: list[tuple[float, Entry]], tasks: list[str], resamples: int) -> Figure | None:
    if not tasks:
        return None
    value, total, fixed = 0.0, np.zeros(resamples), 0
    for task in tasks:
        drawn = [(sign, entry.draws(task, resamples), entry.score(task) or 0.0) for sign, entry in parts]
        fixed += all(d is None for _, d, _ in drawn)
        value += sum(sign * s for sign, _, s in drawn)
        for sign, d, s in drawn:
            total += sign * (np.full(resamples, s) if d is None else d)
    spread = None if fixed == len(tasks) else interval(total / len(tasks))
    return Figure(value / len(tasks), spread, len(tasks), fixed)


def entries(found: Iterable[tuple[Path, Run]]) -> list[Entry]:
    """Runs put together by what they are."""
    buckets: dict[Key, list[Seeded]] = {}
    for path, run in found:
        key = Key(
            GENERAL if run.benchmark == "general" else run.benchmark,
            run.backbone or run.label,
            run.row,
            run.preset,
            run.algorithm,
            run.consistency_weight,
            run.hard_weight,
            run.representation,
            run.budget,
            run.step,
            run.label if run.row == "peer" else "",
        )
        buckets.setdefault(key, []).append(Seeded(path, run))
    names = _names(buckets)
    made = []
    for key, runs in buckets.items():
        for name, some in _split(runs, names[_family(key)]).items():
            made.append(Entry(key._replace(apart=key.apart or name), some))
    return made


def _family(key: Key) -> Key:
    """A training, however its model is read out: two trainings are told apart in all their readings or in none."""
    return key._replace(representation=None, budget=None, step=None)


def _names(buckets: Mapping[Key, list[Seeded]]) -> dict[Key, int]:
    """For each family the first of `_TELLING` under which no seed occurs twice."""
    needed: dict[Key, int] = {}
    for key, runs in buckets.items():
        fits = (n for n in range(len(_TELLING)) if all(_distinct(some) for some in _split(runs, n).values()))
        needed[_family(key)] = max(needed.get(_family(key), 0), next(fits))
    return needed


def _split(runs: list[Seeded], name: int) -> dict[str, list[Seeded]]:
    split: dict[str, list[Seeded]] = {}
    for seeded in runs:
        split.setdefault(_TELLING[name](seeded), []).append(seeded)
    return split


_TELLING: tuple[Callable[[Seeded], str], ...] = (
    lambda seeded: "",
    lambda seeded: seeded.run.label,
    lambda seeded: seeded.run.fingerprint,
    lambda seeded: str(seeded.path.parent.parent),
    lambda seeded: str(seeded.path),
)


def _distinct(runs: list[Seeded]) -> bool:
    seeds = [seeded.run.seed for seeded in runs]
    return len(runs) == 1 or (None not in seeds and len(set(seeds)) == len(seeds))
