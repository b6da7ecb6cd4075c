"""`--dry-run`: how much there is to embed, and how long this machine would take, measured on a small probe.

Counts of mteb's tasks come from the statistics that mteb ships, so nothing is downloaded; a task without them, and a
suite of one's own, is counted by listening to it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mteb.abstasks import AbsTask, AbsTaskClassification
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.clustering import AbsTaskClustering

from grace.representation import Role
from grace_training.errors import BadRecipe
from grace_training.evaluation.evaluate import fresh
from grace_training.evaluation.listening import listen
from grace_training.evaluation.opening import open_variants
from grace_training.evaluation.suites import SHIPPED, load_suite

_PROBED = 48  # texts


@dataclass(frozen=True, slots=True)
class Load:
    """What a task gives to embed; a text that comes twice counts once in `texts`, where that is known."""

    texts: int
    characters: int

    def __add__(self, other: Load) -> Load:
        return Load(self.texts + other.texts, self.characters + other.characters)


@dataclass(frozen=True, slots=True)
class Rate:
    """What a model takes on this machine."""

    characters_per_token: float
    input_tokens_per_s: float
    rationale_tokens: float  # a text
    written_tokens_per_s: float  # infinite where nothing is written

    def hours(self, load: Load) -> float:
        """Hours to embed a load."""
        reading = load.characters / self.characters_per_token / self.input_tokens_per_s
        return (reading + load.texts * self.rationale_tokens / self.written_tokens_per_s) / 3600


def plan(options: argparse.Namespace, tasks: Sequence[AbsTask]) -> Iterator[str]:
    """A line per task, category and in all: texts, tokens, hours.

    Raises:
        BadRecipe: a peer is asked for; what it costs is not known here.
    """
    if options.peer:
        raise BadRecipe("--dry-run estimates GRACE checkpoints, not peers")
    options.quiet = True
    rate = probe(options)
    yield (
        f"measured on {_PROBED} texts: {rate.input_tokens_per_s:.0f} tokens/s read, "
        + (f"{rate.written_tokens_per_s:.0f} written, " if rate.rationale_tokens else "nothing written, ")
        + f"{rate.rationale_tokens:.0f} rationale tokens a text"
    )
    yield f"{'':34}{'texts':>12}{'tokens':>16}{'of them written':>18}{'hours':>10}"
    categories: dict[str, Load] = {}
    for task in tasks:
        found = load_of(task)
        kind = str(task.metadata.type)
        categories[kind] = categories.get(kind, Load(0, 0)) + found
        yield _line(task.metadata.name, found, rate)
    for kind, found in categories.items():
        yield _line(f"= {kind}", found, rate)
    yield _line("= all", sum(categories.values(), Load(0, 0)), rate)
    yield "texts that several tasks share, and those already on the shelf, are embedded once and counted here each time"


def load_of(task: AbsTask) -> Load:
    """What a task gives to embed: by mteb's statistics, or by listening to it."""
    if isinstance(task, AbsTaskAggregate):
        return sum((load_of(part) for part in task.metadata.tasks), Load(0, 0))
    statistics = task.metadata.descriptive_stats
    if not statistics or any(split not in statistics for split in task.eval_splits):
        return _heard(task)
    found = Load(0, 0)
    for split in task.eval_splits:
        subsets = statistics[split].get("hf_subset_descriptive_stats") or {}
        chosen = [subsets[name] for name in task.hf_subsets if name in subsets] or [statistics[split]]
        found = sum((_texts(part) for part in chosen), found)
    if isinstance(task, AbsTaskClassification):
        found += _drawn(task, statistics)
    if isinstance(task, AbsTaskClustering):
        kept = task.max_document_to_embed or (task.max_fraction_of_documents_to_embed or 1) * found.texts
        share = min(1.0, kept / max(found.texts, 1))
        found = Load(round(found.texts * share), round(found.characters * share))
    return found


def probe(options: argparse.Namespace) -> Rate:
    """Embed a few texts of the shipped suite, with and without rationales."""
    texts: list[str] = []
    suite, _ = load_suite(SHIPPED / "small", None).tasks(limit=_PROBED // 6)
    for task in suite:
        listen(task, lambda piece, role: texts.extend(piece))
    texts = sorted(set(texts))[:: max(1, len(set(texts)) // _PROBED)][:_PROBED]
    with open_variants(options) as variants:
        embedder = variants[0].embedder
        if embedder is None:
            raise BadRecipe("--dry-run estimates GRACE checkpoints")
        grace = embedder.open_engine()
        reading = [embedder.prompter.job(text, mode="direct") for text in texts]
        writing = [embedder.job(text, "document") for text in texts]
        for _ in grace.run(reading[:4]):  # the first ones pay for what is set up once
            pass
        started = time.perf_counter()
        tokens = sum(answer.input_tokens for answer in grace.run(reading))
        read = time.perf_counter() - started
        characters = sum(map(len, texts)) / tokens
        if embedder.budget is None:
            return Rate(characters, tokens / read, 0.0, float("inf"))
        started = time.perf_counter()
        written = sum(answer.completion_tokens for answer in grace.run(writing))
        took = max(time.perf_counter() - started - read, 1e-9)
        return Rate(characters, tokens / read, written / len(texts), written / took)


def _texts(statistics: Mapping[str, Any]) -> Load:
    """Over every kind of text that a task's statistics tell of: documents, queries, first and second sentences."""
    names = ("text_statistics", "summaries_statistics", "text1_statistics", "text2_statistics")
    parts = (part for key, part in statistics.items() if key.endswith(names))
    found = [part for part in parts if isinstance(part, dict) and "total_text_length" in part]
    return Load(sum(int(p["unique_texts"]) for p in found), sum(int(p["total_text_length"]) for p in found))


def _drawn(task: AbsTaskClassification, statistics: Mapping[str, Any]) -> Load:
    """The training texts of a classification: ten draws of a few per label, at most all there are."""
    whole = _texts(statistics.get(task.train_split, {}))
    labels = (statistics.get(task.train_split, {}).get("label_statistics") or {}).get("unique_labels", 2)
    texts = min(whole.texts, task.samples_per_label * task.n_experiments * labels)
    return Load(texts, round(whole.characters * texts / max(whole.texts, 1)))


def _heard(task: AbsTask) -> Load:
    seen: dict[str, int] = {}

    def hear(texts: Iterable[str], role: Role) -> None:
        seen.update((text, len(text)) for text in texts)

    listen(fresh(task), hear)
    return Load(len(seen), sum(seen.values()))


def _line(name: str, load: Load, rate: Rate) -> str:
    written = round(load.texts * rate.rationale_tokens)
    tokens = round(load.characters / rate.characters_per_token) + written
    return f"{name:34.34}{load.texts:12,}{tokens:16,}{written:18,}{rate.hours(load):10.2f}"
