"""The miniature measures that need GRACE's own prompt: whether rationales are well-formed, and hold the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from grace import Grace
from grace.rationale import CLOSE, OPEN
from grace.representation import Rationale
from grace_training.data import text_key
from grace_training.evaluation.general_data import Row
from grace_training.evaluation.general_lm import Measured
from grace_training.evaluation.general_tasks import Task
from grace_training.evaluation.results import Group, Items, Sample

SHOWN = 6  # texts and rationales kept for case studies


class Written(NamedTuple):
    """A task's score, the mean length of what was written for it, and some of it to read."""

    measured: Measured
    mean_tokens: float
    samples: tuple[Sample, ...]


def well_formed(rationale: Rationale) -> bool:
    """`<think>` some text `</think>` some text, each tag once at most, and an end that the model chose itself."""
    return (
        rationale.finish_reason == "stop"
        and bool(rationale.thinking and rationale.understanding)
        and rationale.text.count(OPEN) <= 1
        and rationale.text.count(CLOSE) == 1
    )


def rouge_l(summaries: Sequence[str], written: Sequence[str]) -> list[float]:
    """F of the longest common subsequence of stemmed words, for each pair; 0..1."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return [float(scorer.score(s, w)["rougeL"].fmeasure) for s, w in zip(summaries, written, strict=True)]


def measure(grace: Grace, task: Task, rows: list[Row], of: int, *, max_tokens: int | None = None) -> Written:
    """Greedy rationales of documents under the checkpoint's own instruction, judged; None is its own budget.

    Raises:
        grace.errors.InvalidInput: the model has no room for rationales of `max_tokens`.
    """
    texts = [row["text"] for row in rows]
    answers = grace.represent(texts, temperature=0.0, max_rationale_tokens=max_tokens, show_progress=False)
    written = [answer.rationale for answer in answers if answer.rationale is not None]  # all: it was asked for
    if task.name == "rationales":
        values = [float(well_formed(rationale)) for rationale in written]
    else:
        values = rouge_l([row["summary"] for row in rows], [rationale.understanding for rationale in written])
    ids = tuple(f"{n}:{text_key(text):x}" for n, text in enumerate(texts))
    items = Items(task.name, task.metric, (Group("default", "mean", ids=ids, values=tuple(values)),))
    shown = tuple(
        Sample("document", t, r.text, len(r.token_ids), task.name) for t, r in zip(texts, written, strict=True)
    )
    lengths = [len(rationale.token_ids) for rationale in written]
    return Written(Measured(float(np.mean(values)), items, len(rows), of), float(np.mean(lengths)), shown)
