"""The general-ability tasks: the paper's six, what stands in for one of them locally, and the miniature measures.

A task is lm-eval's, with its prompts, examples and answer patterns; from local files only its data set is replaced. So
a figure from a sample of a data set and one from the whole are of the same kind. Where lm-eval has no task, or one that
cannot run here, ours is in `tasks/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grace_training.errors import BadData
from grace_training.evaluation import general_data as data
from grace_training.evaluation.general_data import Row

OURS = Path(__file__).with_name("tasks")
# Only these folders of lm-eval's are read: its whole index takes ten seconds.
STOCK_FOLDERS = ("gsm8k", "mmlu/default", "triviaqa", "nq_open", "bbh/cot_fewshot")


@dataclass(frozen=True, slots=True)
class Task:
    """One column of the table."""

    name: str
    title: str
    metric: str  # lm-eval's
    stock: str = ""  # the task's name for lm-eval; empty: not lm-eval's, or not on the hub
    filter: str = "none"  # which of lm-eval's readings of an answer counts
    stems: tuple[str, ...] = ()  # how its local file's name may begin
    fields: Mapping[str, type] = field(default_factory=dict)
    convert: Callable[[Row], Row | None] | None = None
    split: str = "test"  # lm-eval's name for the part that is judged
    part: tuple[str, str] | None = None  # rows go to lm-eval's tasks by this field, under this prefix
    chat: str = ""  # the task under a chat template, where that is another one
    runs_code: bool = False
    local_only: bool = False


_SIX = (
    Task(
        "gsm8k",
        "GSM8K",
        "exact_match",
        stock="gsm8k_cot",
        filter="flexible-extract",
        stems=("gsm8k",),
        fields={"question": str, "answer": str},
    ),
    Task(
        "mmlu",
        "MMLU",
        "acc",
        stock="mmlu",
        stems=("mmlu",),
        fields={"subject": str, "question": str, "choices": list, "answer": object},
        convert=data.mmlu,
        part=("subject", "mmlu_"),
    ),
    Task(
        "triviaqa",
        "TriviaQA",
        "exact_match",
        stock="triviaqa",
        filter="remove_whitespace",
        stems=("triviaqa",),
        fields={"question": str, "answer": list},
        convert=data.triviaqa,
        split="validation",
    ),
    Task(
        "fever",
        "FEVER",
        "acc",
        stock="grace_fever",
        stems=("fever",),
        fields={"claim": str, "label": str},
        convert=data.fever,
    ),
    Task(
        "bbh",
        "BBH",
        "exact_match",
        stock="bbh_cot_fewshot",
        filter="get-answer",
        stems=("bbh",),
        fields={"task": str, "input": str, "target": str},
        part=("task", "bbh_cot_fewshot_"),
    ),
    Task(
        "humaneval",
        "HumanEval",
        "pass@1",
        stock="grace_humaneval",
        stems=("humaneval",),
        fields={"prompt": str, "entry_point": str, "canonical_solution": str, "test": str},
        chat="grace_humaneval_chat",
        runs_code=True,
    ),
)
_STAND_IN = Task(
    "nq_open",
    "NQ-open",
    "exact_match",
    stock="nq_open",
    filter="remove_whitespace",
    stems=("nq_open",),
    fields={"question": str, "answer": list},
    split="validation",
)
_MINIATURE = (
    Task(
        "perplexity",
        "Perplexity",
        "perplexity",
        stock="grace_perplexity",
        stems=("text", "perplexity"),
        fields={"text": str},
        local_only=True,
    ),
    Task(
        "rationales", "Well-formed", "well_formed", stems=("rationale", "text"), fields={"text": str}, local_only=True
    ),
    Task(
        "summaries",
        "ROUGE-L",
        "rougeL",
        stems=("summar", "sum_"),
        fields={"text": str, "summary": str},
        local_only=True,
    ),
)
TASKS: Mapping[str, Task] = {task.name: task for task in (*_SIX, _STAND_IN, *_MINIATURE)}
PAPER = tuple(task.name for task in _SIX)
MINIATURE = tuple(task.name for task in _MINIATURE)
WRITTEN = ("rationales", "summaries")  # measured on the rationales of the one-pass engine, not through lm-eval


def default_tasks(folder: Path | None) -> list[str]:
    """What is measured unless said: the paper's six; locally NQ-open for TriviaQA, and the miniature, where found."""
    if folder is None:
        return list(PAPER)
    names = [name for name in (*PAPER, "nq_open", *MINIATURE) if _has(folder, name)]
    # One of the two is enough, and TriviaQA is the paper's. A task without a file is asked for, and fails by name.
    missing = [name for name in PAPER if name not in names and not (name == "triviaqa" and "nq_open" in names)]
    return sorted({*names, *missing} - ({"nq_open"} if "triviaqa" in names else set()), key=list(TASKS).index)


def local_rows(task: Task, folder: Path, most: int | None) -> tuple[list[Row], int]:
    """A task's rows from its local file, and how many there would be.

    Raises:
        BadData: no file, or a row that cannot be used.
    """
    rows = data.read(data.find(folder, task.stems), task.fields, task.convert)
    return data.evenly(rows, most), len(rows)


def specification(task: Task, rows: list[Row] | None, *, chat: bool) -> list[Any]:
    """What lm-eval is asked to load: its own task, or its task over our rows."""
    stock = task.chat if chat and task.chat else task.stock
    if rows is None:
        return [stock]
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(task.part[1] + row[task.part[0]] if task.part else stock, []).append(row)
    members = [_over(name, part, task.split) for name, part in parts.items()]
    return [{"group": f"{task.name}_local", "task": members}]


def _over(stock: str, rows: list[Row], split: str) -> dict[str, Any]:
    def dataset(**_: Any) -> Any:
        from datasets import Dataset, DatasetDict

        return DatasetDict({split: Dataset.from_list(rows)})

    changes: dict[str, Any] = {"task": stock, "custom_dataset": dataset, "training_split": None}
    if stock.startswith("mmlu_"):
        # Its examples come from a part that local files lack. Other tasks bring theirs along.
        changes |= {"fewshot_split": None, "fewshot_config": None}
    return changes


def _has(folder: Path, name: str) -> bool:
    try:
        data.find(folder, TASKS[name].stems)
    except BadData as error:
        return "keep one" in str(error)  # then it fails with that reason
    return True
