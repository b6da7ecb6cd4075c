"""Rows of a suite's files, each field in the form that its task reads; any other form is named with file and line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from grace_training.data import is_whole, listed, open_text, rows
from grace_training.errors import BadData

Form = Callable[[Any], Any]  # a value as its task reads it; ValueError says what is wrong with another


def text(value: Any) -> str:
    """A text; numbers stand for themselves, as ids and labels often do."""
    if not isinstance(value, str | int | float):
        raise _wrong("a text", value)
    if not is_whole(str(value)):
        raise ValueError("holds half a character")
    return str(value)


def texts(value: Any) -> list[str]:
    """A list of texts; one text alone is a list of one, as in training data, and never one of its characters."""
    return [text(one) for one in listed(value)]


def finite(value: Any) -> float:
    """A finite number, also where it is written as a text: CSV knows nothing else."""
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise _wrong("a number", value) from error
    if not math.isfinite(found):
        raise _wrong("a number", value)
    return found


def numbers(value: Any) -> list[float]:
    """A list of numbers."""
    if not isinstance(value, list | tuple):
        raise _wrong("a list of numbers", value)
    return [finite(one) for one in value]


def yes_or_no(value: Any) -> int:
    """0 or 1."""
    try:
        return {0.0: 0, 1.0: 1}[finite(value)]
    except (KeyError, ValueError) as error:
        raise _wrong("0 or 1", value) from error


def read(
    path: Path, columns: Mapping[str, str], forms: Mapping[str, Form], *, alike: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Every row of a file, with the fields in `forms` as those give them; `columns` maps our fields to the file's.

    The lists named in `alike` must be of one length in each row.

    Raises:
        BadData: a row lacks a field or has it in another form, or there is none; the message names file, line, field.
    """
    found = []
    for where, row in rows(str(path)):
        if isinstance(row, BadData):
            raise row
        if not isinstance(row, dict):
            raise BadData(f"{where}: a row must be an object, not {type(row).__name__}")
        named = {**row, **{ours: row.get(theirs) for ours, theirs in columns.items()}}
        for name, form in forms.items():
            if named.get(name) is None:
                raise BadData(f"{where}: no field {name!r}; the row has {', '.join(row) or 'none'}")
            try:
                named[name] = form(named[name])
            except ValueError as error:
                raise BadData(f"{where}: {name} {error}") from error
        if len({len(named[name]) for name in alike}) > 1:
            lengths = ", ".join(f"{name} has {len(named[name])}" for name in alike)
            raise BadData(f"{where}: {' and '.join(alike)} must be of one length: {lengths}")
        found.append(named)
    if not found:
        raise BadData(f"{path}: no rows")
    return found


def by_id(found: Iterable[dict[str, Any]], path: Path) -> dict[str, dict[str, Any]]:
    """Rows under their ids.

    Raises:
        BadData: two have the same, and a judgement would be of either.
    """
    known: dict[str, dict[str, Any]] = {}
    for row in found:
        if known.setdefault(str(row["id"]), row) is not row:
            raise BadData(f"{path.name}: two rows have the id {str(row['id'])!r}")
    return known


def judgements(path: Path) -> dict[str, dict[str, int]]:
    """Query -> document -> score, from lines of the three with tabs between; a first line without a score is a header.

    Raises:
        BadData: a line has another form, or a pair has two scores; the message names file and line.
    """
    found: dict[str, dict[str, int]] = {}
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.rstrip("\n").split("\t")
            if not line.strip() or (number == 1 and not fields[-1].strip().lstrip("-").isdigit()):
                continue
            try:
                query, document, score = fields[0], fields[1], int(fields[2])
            except (IndexError, ValueError) as error:
                raise BadData(
                    f"{path.name}:{number}: must be query-id, corpus-id and a whole score, by tabs"
                ) from error
            if (known := found.setdefault(query, {}).setdefault(document, score)) != score:
                raise BadData(f"{path.name}:{number}: query {query!r} and document {document!r} had the score {known}")
    return found


def _wrong(wanted: str, value: Any) -> ValueError:
    return ValueError(f"must be {wanted}, not {repr(value)[:100]}")
