"""Suites: tasks of mteb's seven categories over JSON lines, computed by mteb's own task classes.

A suite is a folder with `suite.json`, or a `suite.json` whose files lie in another folder:

    {"name": "mine", "tasks": [
      {"name": "Ports", "type": "Retrieval", "corpus": "docs.jsonl", "queries": "queries.jsonl", "qrels": "qrels.tsv"},
      {"name": "Questions", "type": "Reranking", "test": "rerank.jsonl"},
      {"name": "Topics", "type": "Clustering", "test": "topics.jsonl"},
      {"name": "Twins", "type": "PairClassification", "test": "pairs.jsonl"},
      {"name": "Intents", "type": "Classification", "train": "train.jsonl", "test": "test.jsonl"},
      {"name": "Alike", "type": "STS", "test": "sts.jsonl", "min_score": 0, "max_score": 5},
      {"name": "Summaries", "type": "Summarization", "test": "summaries.jsonl", "min_score": 0, "max_score": 2}]}

A folder with corpus, queries and qrels and no `suite.json` is a suite of that one retrieval task. Files may be packed
with gzip or xz. Fields of rows, and who scores them:

    Retrieval           corpus {id, title, text}, queries {id, text}, qrels query-id corpus-id score    nDCG@10
    Reranking           {query, positive: [..], negative: [..]}, a row without either left out          MAP
    Clustering          {text, label, set?}                                                             V-measure
    PairClassification  {s1, s2, label: 0 or 1}                                                         max AP
    Classification      {text, label}, train and test                                                   accuracy
    STS                 {s1, s2, score}                                                                 Spearman
    Summarization       {text, human_summaries, machine_summaries, relevance}                           Spearman
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mteb.abstasks import AbsTask

from grace_training.errors import BadData
from grace_training.evaluation import suite_tasks
from grace_training.evaluation.leaks import sha256_of
from grace_training.evaluation.results import CATEGORIES
from grace_training.evaluation.suite_rows import (
    Form,
    by_id,
    finite,
    judgements,
    numbers,
    read,
    text,
    texts,
    yes_or_no,
)

SHIPPED = Path(__file__).parent / "suites"
_FILES = ("corpus", "queries", "qrels", "train", "test")
_NEEDED = {"Retrieval": ("corpus", "queries", "qrels"), "Classification": ("train", "test")}
_PACKED = ("", ".gz", ".xz")
_SEED = 13  # of subsampling
_CLUSTERED = 10  # texts per sample asked for: a handful cannot be clustered
_OTHERS = 10  # documents kept per query of a subsampled retrieval task, beside those that were judged


@dataclass(frozen=True, slots=True)
class Spec:
    """One task of a suite."""

    name: str
    type: str
    files: dict[str, Path]
    min_score: float = 0.0
    max_score: float = 5.0
    samples_per_label: int = 8
    columns: dict[str, str] = field(default_factory=dict)  # our field -> the file's
    source: dict[str, str] = field(default_factory=dict)  # what it was made from -> SHA-256, where known
    limit: int | None = None  # a suite may say how many samples are enough

    @property
    def sources(self) -> dict[str, str]:
        """The files it was made from, with their SHA-256: its own, unless the suite names others."""
        own = {f"{path.parent.name}/{path.name}": sha256_of(path) for path in self.files.values()}
        return self.source or own


@dataclass(frozen=True, slots=True)
class Suite:
    """A named list of tasks."""

    name: str
    specs: tuple[Spec, ...]
    missing: tuple[str, ...] = ()  # tasks whose files are not there

    def tasks(self, *, limit: int | None = None) -> tuple[list[AbsTask], dict[str, int]]:
        """Task objects of mteb with data inside, and how many samples those have in full that were subsampled."""
        made, full = [], {}
        for spec in self.specs:
            most = min((n for n in (limit, spec.limit) if n is not None), default=None)
            task, whole = build(spec, limit=most)
            made.append(task)
            if whole is not None:
                full[spec.name] = whole
        return made, full


def load_suite(description: Path | None, data: Path | None) -> Suite:
    """Read a suite. `description` is a `suite.json` or a folder with one; files are looked for in `data`, or beside it.

    Raises:
        BadData: it is no suite; the message names the file, the task and the field.
    """
    if description is None:
        description = data
    if description is None:
        description = SHIPPED / "small"
    if description.is_dir():
        folder, path = description, description / "suite.json"
        if not path.exists():
            return _from_folder(folder)
    else:
        folder, path = description.parent, description
    folder = data or folder
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadData(f"{path} cannot be read: {error}") from error
    if not isinstance(parsed, dict) or not isinstance(parsed.get("tasks"), list) or not parsed["tasks"]:
        raise BadData(f"{path} must hold an object with a list 'tasks'")
    specs, missing = [], []
    for number, entry in enumerate(parsed["tasks"], start=1):
        spec = _spec(entry, folder, f"{path}: task {number}")
        if absent := [name for name, file in spec.files.items() if not file.exists()]:
            if data is None or not parsed.get("partial"):
                raise BadData(f"{path}: {spec.name}: no file {spec.files[absent[0]]} ({absent[0]})")
            missing.append(spec.name)
        else:
            specs.append(spec)
    if not specs:
        raise BadData(f"{folder} holds none of the files that {path} names")
    return Suite(str(parsed.get("name", folder.name)), tuple(specs), tuple(missing))


def is_public(folder: Path) -> bool:
    """Whether a folder holds any of the files that the suite `public` describes."""
    entries = json.loads((SHIPPED / "public.json").read_text(encoding="utf-8"))["tasks"]
    return any((folder / entry[name]).exists() for entry in entries for name in _FILES if name in entry)


def build(spec: Spec, *, limit: int | None = None) -> tuple[AbsTask, int | None]:
    """A task of mteb over a spec's files; `limit` draws so many samples, always the same ones.

    Raises:
        BadData: a row cannot be used; the message names file, line and field.
    """
    revision = _revision(spec, limit)
    match spec.type:
        case "Retrieval":
            corpus = _by_id(spec, "corpus")
            queries = {i: str(row["text"]) for i, row in _by_id(spec, "queries").items()}
            qrels = judgements(spec.files["qrels"])
            _check_qrels(spec, corpus, queries, qrels)
            judged = [q for q in queries if any(score > 0 for score in qrels.get(q, {}).values())]
            kept = _draw(judged, limit)
            if limit is not None and len(kept) < len(judged):
                relevant = {d for q in kept for d in qrels[q]}
                drawn = relevant.union(_draw([d for d in corpus if d not in relevant], _OTHERS * limit))
                corpus = {d: corpus[d] for d in corpus if d in drawn}
            task: AbsTask = suite_tasks.retrieval(
                spec.name,
                revision,
                queries={q: queries[q] for q in kept},
                corpus={d: (str(r.get("title") or ""), r["text"]) for d, r in corpus.items()},
                qrels={q: qrels[q] for q in kept},
            )
            return task, _whole(judged, kept)
        case "Reranking":
            # As mteb does: there is nothing to put in order where one side lacks.
            read_rows = _read(spec, "test", query=text, positive=texts, negative=texts)
            if not (found := [row for row in read_rows if row["positive"] and row["negative"]]):
                raise BadData(f"{spec.files['test'].name}: no row has both positive and negative texts")
            kept_rows = _draw(found, limit)
            return suite_tasks.reranking(spec.name, revision, kept_rows), _whole(found, kept_rows)
        case "Clustering":
            found = _read(spec, "test", text=text, label=text)
            kept_rows = _draw(found, None if limit is None else limit * _CLUSTERED)
            return suite_tasks.clustering(spec.name, revision, kept_rows), _whole(found, kept_rows)
        case "PairClassification":
            found = _read(spec, "test", s1=text, s2=text, label=yes_or_no)
            kept_rows = _draw(found, limit)
            return suite_tasks.pair_classification(spec.name, revision, kept_rows), _whole(found, kept_rows)
        case "Classification":
            train, found = (_read(spec, part, text=text, label=text) for part in ("train", "test"))
            kept_rows = _draw(found, limit)
            if limit is not None:
                train = _per_label(train, 2 * spec.samples_per_label)
            made = suite_tasks.classification(
                spec.name, revision, train, kept_rows, samples_per_label=spec.samples_per_label
            )
            return made, _whole(found, kept_rows)
        case "STS":
            found = _read(spec, "test", s1=text, s2=text, score=finite)
            kept_rows = _draw(found, limit)
            bounds = (spec.min_score, spec.max_score)
            return suite_tasks.sts(spec.name, revision, kept_rows, bounds), _whole(found, kept_rows)
        case "Summarization":
            lists: dict[str, Form] = {"human_summaries": texts, "machine_summaries": texts, "relevance": numbers}
            found = _read(spec, "test", alike=("machine_summaries", "relevance"), text=text, **lists)
            kept_rows = _draw(found, limit)
            bounds = (spec.min_score, spec.max_score)
            return suite_tasks.summarization(spec.name, revision, kept_rows, bounds), _whole(found, kept_rows)
    raise BadData(f"{spec.name}: type must be one of {', '.join(CATEGORIES)}, not {spec.type!r}")


def _spec(entry: Any, folder: Path, where: str) -> Spec:
    known = {"name", "type", "min_score", "max_score", "samples_per_label", "columns", "source", "limit", *_FILES}
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise BadData(f"{where} must be an object with a name")
    if unknown := sorted(set(entry) - known):
        raise BadData(f"{where} ({entry['name']}) has unknown fields: {', '.join(unknown)}")
    if entry.get("type") not in CATEGORIES:
        raise BadData(f"{where} ({entry['name']}): type must be one of {', '.join(CATEGORIES)}")
    needed = _NEEDED.get(entry["type"], ("test",))
    if absent := [name for name in needed if name not in entry]:
        raise BadData(f"{where} ({entry['name']}) lacks {', '.join(absent)}")
    if (limit := entry.get("limit")) is not None and (type(limit) is not int or limit < 1):
        raise BadData(f"{where} ({entry['name']}): limit must be a whole number of at least 1, not {limit!r}")
    values = {k: v for k, v in entry.items() if k not in _FILES}
    return Spec(**values, files={name: folder / entry[name] for name in needed})


def _from_folder(folder: Path) -> Suite:
    files = {}
    for name, suffix in (("corpus", ".jsonl"), ("queries", ".jsonl"), ("qrels", ".tsv")):
        found = [p for packed in _PACKED if (p := folder / f"{name}{suffix}{packed}").exists()]
        if not found:
            raise BadData(f"{folder} holds neither suite.json nor {name}{suffix}")
        files[name] = found[0]
    return Suite(folder.name, (Spec(folder.name, "Retrieval", files),))


def _read(spec: Spec, file: str, alike: Sequence[str] = (), **forms: Form) -> list[dict[str, Any]]:
    return read(spec.files[file], spec.columns, forms, alike=alike)


def _by_id(spec: Spec, file: str) -> dict[str, dict[str, Any]]:
    return by_id(_read(spec, file, id=text, text=text), spec.files[file])


def _check_qrels(
    spec: Spec, corpus: Mapping[str, Any], queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]
) -> None:
    path = spec.files["qrels"].name
    for query, judged in qrels.items():
        if query not in queries:
            raise BadData(f"{path}: query {query!r} is not among the queries")
        for document in judged:
            if document not in corpus:
                raise BadData(f"{path}: document {document!r} is not in the corpus")
    if not any(score > 0 for judged in qrels.values() for score in judged.values()):
        raise BadData(f"{path}: no document is relevant to any query")


def _draw(items: list[Any], limit: int | None) -> list[Any]:
    """At most `limit` items, in their order, the same ones every time."""
    if limit is None or len(items) <= limit:
        return items
    chosen = sorted(random.Random(_SEED).sample(range(len(items)), limit))
    return [items[i] for i in chosen]


def _per_label(rows_: list[Any], most: int) -> list[Any]:
    """At most so many rows of each label: mteb's ten draws of a training set would come to nearly all of it."""
    drawn = [_draw([row for row in rows_ if row["label"] == label], most) for label in {r["label"]: 0 for r in rows_}]
    return [row for part in drawn for row in part]


def _whole(found: list[Any], kept: list[Any]) -> int | None:
    return len(found) if len(kept) < len(found) else None


def _revision(spec: Spec, limit: int | None) -> str:
    """What a result is of: other data, other columns of it, another type or another draw is another result."""
    asked = (spec.type, limit, spec.min_score, spec.max_score, spec.samples_per_label, sorted(spec.columns.items()))
    digest = hashlib.sha256(repr(asked).encode())
    for name, path in sorted(spec.files.items()):
        digest.update(f"{name} {sha256_of(path)}".encode())
    return digest.hexdigest()[:12]
