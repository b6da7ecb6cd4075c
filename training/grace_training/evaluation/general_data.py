"""Local files of the general-ability tasks, and the claims of FEVER, which no dataset library loads any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grace_training.data import file_rows
from grace_training.errors import BadData

Row = dict[str, Any]
Fields = Mapping[str, type]
ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.xz", ".txt", ".txt.gz", ".txt.xz")
FEVER = "https://fever.ai/download/fever/shared_task_dev.jsonl"  # 19,998 claims, 13,332 of them supported or refuted


def find(folder: Path, stems: tuple[str, ...]) -> Path:
    """The one file of a task in a folder: its name begins with one of `stems`.

    Raises:
        BadData: there is none, or more than one.
    """
    if not folder.is_dir():
        raise BadData(f"{folder}: no such folder")
    found = sorted(f for f in folder.iterdir() if f.name.startswith(stems) and f.name.endswith(ENDINGS))
    if not found:
        raise BadData(f"{folder}: no file {' or '.join(f'{stem}*.jsonl' for stem in stems)}")
    if len(found) > 1:
        raise BadData(f"{folder}: {', '.join(f.name for f in found)} all belong to this task; keep one")
    return found[0]


def read(path: Path, fields: Fields, convert: Callable[[Row], Row | None] | None = None) -> list[Row]:
    """The rows of a file with these fields alone; `convert` may change a row, or leave it out by giving None.

    Raises:
        BadData: naming file, line and field.
    """
    rows: list[Row] = []
    for where, row in file_rows(path):
        if isinstance(row, BadData):
            raise row
        if not isinstance(row, dict):
            raise BadData(f"{where}: a row must be an object, not {type(row).__name__}")
        for name, kind in fields.items():
            if name not in row:
                raise BadData(f"{where}: no field {name!r}; the row has {', '.join(row) or 'none'}")
            if not isinstance(row[name], kind):
                raise BadData(f"{where}: {name!r} must be a {kind.__name__}, not {type(row[name]).__name__}")
        kept = {name: row[name] for name in fields}
        try:
            changed = convert(kept) if convert else kept
        except ValueError as error:
            raise BadData(f"{where}: {error}") from error
        if changed is not None:
            rows.append(changed)
    if not rows:
        raise BadData(f"{path}: no usable row")
    return rows


def evenly(rows: list[Row], most: int | None) -> list[Row]:
    """At most so many rows, from the whole length of the list, always the same ones."""
    if most is None or most >= len(rows):
        return rows
    return [rows[i * len(rows) // most] for i in range(most)]


def mmlu(row: Row) -> Row:
    """The answer as a number; files keep it as a digit or a letter."""
    answer = str(row["answer"])
    number = "ABCD".find(answer) if answer.isalpha() else int(answer)
    if len(row["choices"]) != 4 or not 0 <= number < 4:
        raise ValueError(f"'choices' must be four and 'answer' one of 0..3 or A..D, not {answer!r}")
    return {**row, "answer": number}


def triviaqa(row: Row) -> Row:
    """The form of the hub's rows."""
    return {**row, "answer": {"aliases": row["answer"]}}


def fever(row: Row) -> Row | None:
    """Only claims that are known to be true or false."""
    if row["label"] not in ("SUPPORTS", "REFUTES", "NOT ENOUGH INFO"):
        raise ValueError(f"'label' must be SUPPORTS, REFUTES or NOT ENOUGH INFO, not {row['label']!r}")
    return None if row["label"] == "NOT ENOUGH INFO" else row


def fever_from_its_site(**_: Any) -> Any:
    """The labelled development set of FEVER's shared task, fetched once into the dataset library's cache."""
    from datasets import Dataset, DatasetDict, DownloadManager

    # Its column `evidence` mixes types within a list, which Arrow refuses: only claim and label are read.
    path = Path(DownloadManager().download(FEVER))
    named = path.with_suffix(".jsonl")
    if not named.exists():
        named.symlink_to(path)
    return DatasetDict({"test": Dataset.from_list(read(named, {"claim": str, "label": str}, fever))})
