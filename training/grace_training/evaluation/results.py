"""What an evaluation leaves behind, and how it is found again.

A results folder is mteb's own, so that mteb and its leaderboard read it:

    FOLDER/results/<owner__model>/<revision>/experiments/<variant>/<Task>.json      mteb's scores
                                                                   model_meta.json
                                                                   grace/run-<benchmark>.json          a `Run`, ours
                                                                   grace/items-<benchmark>/<Task>.json `Items`, ours
                                                                   grace/general.json    a `Run` of general ability
                                                                   grace/items/<Task>.json             its `Items`

mteb takes every other .json beside its own for a task, hence the folder `grace`. A revision is the first 12 digits of
a checkpoint's fingerprint, or a peer's revision; a variant is what else changes the vectors (representation, budget).
Each benchmark has its own run and items: two may hold a task of one name, on other splits. Older folders have one
`run.json` with `items` beside it, and are read as they are. Every file is written whole or not at all.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from grace_training.errors import TrainingError

FORMAT = 1
OWN = "grace"  # the folder beside mteb's files
RUN = "run.json"  # a run of no named benchmark, and in older folders of any

Row = Literal[
    "base",  # the model as it came, its text pooled without a rationale
    "reasoning",  # the model as it came, with a rationale
    "contrastive",
    "simcse",
    "grace-supervised",
    "grace-unsupervised",
    "peer",  # any other model
]
ROWS: tuple[Row, ...] = get_args(Row)
RepresentationName = Literal["mean", "rationale", "input", "last", "direct"]
REPRESENTATIONS: tuple[RepresentationName, ...] = get_args(RepresentationName)
# mteb's names of the paper's seven categories, in the order of its tables; "General" is lm-eval's.
CATEGORIES = (
    "Retrieval",
    "Reranking",
    "Clustering",
    "PairClassification",
    "Classification",
    "STS",
    "Summarization",
)
GENERAL = "General"
Status = Literal["done", "failed"]
Kind = Literal["mean", "spearman", "max_ap", "v_measure", "perplexity"]


class BadResults(TrainingError):
    """A results folder holds something that is no result of ours."""


@dataclass(frozen=True, slots=True)
class Leak:
    """Texts of a task that a checkpoint was trained on, white space and case not counted."""

    source: str  # the training file, or its name in the checkpoint's card
    texts: int | None  # how many of the task's texts occur there; None: the card names the data, no more
    of: int  # texts of the task


@dataclass(frozen=True, slots=True)
class Counts:
    """What was asked of a GRACE checkpoint; a text that comes twice counts twice."""

    asked: int = 0  # texts
    rationale_tokens: int = 0  # of all of them
    stood_in: int = 0  # texts without a token of the representation, whose mean stands in

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """One task of a run. A failed one has no score, whatever was computed on the way."""

    task: str
    category: str  # of CATEGORIES, or GENERAL
    metric: str  # mteb's (or lm-eval's) name of the main score
    status: Status
    score: float | None = None  # 0..1 as mteb gives it, or -1..1 for a correlation; higher is better
    reason: str | None = None  # why it failed
    samples: int = 0  # queries, pairs or texts that were judged
    texts: int = 0  # texts that were embedded, each counted once
    seconds: float = 0.0
    subsampled_from: int | None = None  # how many samples there would have been
    leaks: tuple[Leak, ...] = ()
    compared_with: str = ""  # fingerprint of the training texts that `leaks` were looked for in; empty: the card alone
    counts: Counts | None = None  # None: not counted (a peer, a failed task, a file from before they were kept)
    superseded_by: str | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A text and the rationale written about it, for case studies."""

    role: Literal["document", "query"]
    text: str
    rationale: str
    tokens: int
    task: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One model, in one variant, on some tasks. Runs that differ in `step` alone are one training."""

    label: str  # what a table calls it
    row: Row
    model: str  # folder, hub id or peer as it was asked for
    fingerprint: str  # of the checkpoint; empty for a peer
    representation: RepresentationName | None  # None for a peer
    budget: int | None  # most rationale tokens; None where nothing is written
    backbone: str = ""  # the model it was trained from; itself for a base model
    method: str | None = None  # grace, contrastive, simcse
    preset: str | None = None
    algorithm: str | None = None
    objective: str | None = None
    seed: int | None = None
    step: int | None = None
    consistency_weight: float | None = None  # lambda1
    hard_weight: float | None = None  # lambda2
    settings: Mapping[str, Any] = field(default_factory=dict)  # other settings that matter: engine, dtype, temperature
    data: Mapping[str, str] = field(default_factory=dict)  # training data: source -> fingerprint, from the card
    benchmark: str = ""  # "MTEB(eng, v1)", a suite's name, ...
    expected: tuple[str, ...] = ()  # every task that was asked for: an average over fewer must say so
    tasks: tuple[TaskRecord, ...] = ()
    samples: tuple[Sample, ...] = ()
    texts_per_s: float | None = None  # embedded by the engine, not cached, nor cut from longer rationales; None: none
    rationale_tokens: float | None = None  # mean over the texts of its tasks; None: nothing written, or not known
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    started_at: str = ""  # ISO 8601, UTC
    format: int = FORMAT

    def with_task(self, record: TaskRecord) -> Run:
        """The run with this task's record in place of an older one."""
        others = tuple(task for task in self.tasks if task.task != record.task)
        return replace(self, tasks=(*others, record))

    def record(self, task: str) -> TaskRecord | None:
        """What is known of a task."""
        return next((record for record in self.tasks if record.task == task), None)


@dataclass(frozen=True, slots=True)
class Group:
    """Items whose statistic is one score: a subset of a task, or one of CQADupstack's twelve.

    `mean`: the mean of `values` (per query, text or cluster set). `spearman`: of `predicted["cosine"]` with `gold`.
    `max_ap`: the best average precision among `predicted` (larger = more alike) against labels `gold`.
    `v_measure`: of `predicted["cluster"]` against labels `gold`. `perplexity`: exp of the sum of `predicted["nats"]`
    over the sum of `predicted["tokens"]`.
    """

    name: str  # the subset; "default" where there is one
    kind: Kind
    ids: tuple[str, ...] = ()  # of the items, so that two runs can be paired; empty: by position
    values: tuple[float, ...] = ()
    predicted: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    gold: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Items:
    """What a task's score was computed from, and can be resampled from: the mean over its groups' statistics."""

    task: str
    metric: str
    groups: tuple[Group, ...]


def run_name(benchmark: str) -> str:
    """The file of a benchmark's run; no two benchmarks have the same, whatever has to be left out of their names."""
    if not benchmark:
        return RUN
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", benchmark).strip("-")[:80]
    return f"run-{plain}.json" if plain == benchmark else f"run-{plain}-{zlib.crc32(benchmark.encode()):08x}.json"


def items_path(run_path: Path, task: str) -> Path:
    """Where the items of a task of the run at `run_path` are."""
    benchmark = run_path.stem.removeprefix("run") if run_path.stem.startswith("run-") else ""
    return run_path.parent / f"items{benchmark}" / f"{task}.json"


def write_run(run: Run, folder: Path, *, name: str = RUN) -> Path:
    """Write a run to `folder`/grace/`name`, whole; `folder` is the one with mteb's files."""
    path = folder / OWN / name
    _write(path, asdict(run))
    return path


def write_items(items: Items, folder: Path, *, name: str = RUN) -> Path:
    """Write a task's items beside the run `folder`/grace/`name`; without groups there are none, and older ones go."""
    path = items_path(folder / OWN / name, items.task)
    if items.groups:
        _write(path, asdict(items))
    else:
        path.unlink(missing_ok=True)
    return path


def read_run(path: Path) -> Run:
    """Read a run of embedding tasks or a `general.json`.

    Raises:
        BadResults: it is none, or of a newer version.
    """
    data = _read(path)
    if data.get("format", 0) > FORMAT:
        raise BadResults(f"{path} has format {data['format']}, this version reads up to {FORMAT}: upgrade")
    try:
        tasks = tuple(map(_task, data.pop("tasks", ())))
        samples = tuple(Sample(**sample) for sample in data.pop("samples", ()))
        known = {f.name for f in fields(Run)}
        return Run(
            **{**{k: v for k, v in data.items() if k in known}, "expected": tuple(data.get("expected", ()))},
            tasks=tasks,
            samples=samples,
        )
    except TypeError as error:
        raise BadResults(f"{path} is no run of grace-eval: {error}") from error


def read_items(run_path: Path, task: str) -> Items | None:
    """The items of a task of the run at `run_path`, or None: not every metric can be resampled."""
    path = items_path(run_path, task)
    if not path.exists():
        return None
    data = _read(path)
    groups = tuple(
        Group(
            name=g["name"],
            kind=g["kind"],
            ids=tuple(g["ids"]),
            values=tuple(g["values"]),
            predicted={key: tuple(values) for key, values in g["predicted"].items()},
            gold=tuple(g["gold"]),
        )
        for g in data["groups"]
    )
    return Items(data["task"], data["metric"], groups)


def runs(folder: Path) -> Iterator[tuple[Path, Run]]:
    """Every run under a folder (or folders of folders), in the order of their paths.

    Raises:
        BadResults: a file of ours is damaged.
    """
    for path in sorted(folder.rglob(f"{OWN}/*.json")):
        yield path, read_run(path)


def _task(data: Mapping[str, Any]) -> TaskRecord:
    leaks = tuple(Leak(**leak) for leak in data.get("leaks", ()))
    counts = None if data.get("counts") is None else Counts(**data["counts"])
    return TaskRecord(**{**data, "leaks": leaks, "counts": counts})


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadResults(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise BadResults(f"{path} must hold an object")
    return data
