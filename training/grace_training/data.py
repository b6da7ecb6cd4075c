"""Training data: examples from files or the hub, each knowing the line it came from.

Supervised: query, positive (one text, or several: one example each), negatives (none, one or several).
Unsupervised: text. JSON lines, CSV, Parquet and plain text (one text per line), packed with gzip or xz or not at all,
or the name of a hub dataset. Columns may have other names. A bad row stops the run, unless it is told to skip: then it
is counted.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from grace_training.errors import BadData
from grace_training.presets import Objective
from grace_training.rollouts import Row

FIELDS = ("query", "positive", "negatives", "text")
_OTHER_NAMES = {
    "negatives": ("negative", "neg"),
    "positive": ("pos",),
    "query": ("anchor", "question"),
    "text": ("sentence",),
}
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)  # of a packed file
_CSV_FIELD = 10_000_000  # characters; a longer field is an open quote that swallows rows


@dataclass(frozen=True, slots=True)
class Example:
    """One example; `query` is None without supervision."""

    query: str | None
    positive: str
    negatives: tuple[str, ...]
    source: str  # file:line

    @property
    def texts(self) -> tuple[str, ...]:
        """All its texts."""
        return (*([] if self.query is None else [self.query]), self.positive, *self.negatives)


@dataclass(frozen=True, slots=True)
class Data:
    """What was read."""

    examples: list[Example]
    bad: list[str]  # "file:line: reason", when they were to be skipped
    fingerprint: str  # of the rows as read, in order


def read(
    source: str | list[str],
    objective: Objective,
    *,
    columns: Mapping[str, str] | None = None,  # our name -> the data's
    skip_bad: bool = False,
    limit: int | None = None,
) -> Data:
    """Read examples from files, folders of files or hub names.

    Raises:
        BadData: a row cannot be used and `skip_bad` is off, a file is of no known kind, or nothing is left.
    """
    if unknown := sorted(set(columns or {}) - set(FIELDS)):
        raise BadData(f"columns maps {', '.join(unknown)}; there are {', '.join(FIELDS)}")
    examples: list[Example] = []
    bad: list[str] = []
    digest = hashlib.sha256()
    for where, row in rows(*([source] if isinstance(source, str) else source)):
        if limit is not None and len(examples) >= limit:
            break
        try:
            examples += _examples(row, objective, columns or {}, where)
        except BadData as error:
            if not skip_bad:
                raise
            bad.append(str(error))
            continue
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode("utf-8", "replace"))
    if not examples:
        raise BadData(f"{source}: no usable row" + (f" ({len(bad)} bad ones, the first: {bad[0]})" if bad else ""))
    return Data(examples[:limit], bad, digest.hexdigest()[:32])


def training_rows(examples: list[Example], *, symmetric: bool = False) -> list[Row]:
    """One row per text to roll out: the positive (or the text), and the query too when roles are symmetric."""
    rows: list[Row] = []
    for number, example in enumerate(examples):
        supervised = example.query is not None
        query = example.positive if example.query is None else example.query
        keys = [text_key(query), text_key(example.positive)]
        shared = {"negatives": list(example.negatives), "supervised": supervised, "example": number, "keys": keys}
        rows.append(Row(prompt=example.positive, anchor=query, swapped=False, **shared))  # type: ignore[typeddict-item]
        if symmetric and supervised:
            rows.append(Row(prompt=query, anchor=example.positive, swapped=True, **shared))  # type: ignore[typeddict-item]
    return rows


def text_key(text: str) -> int:
    """A hash of the text that fits a signed 64-bit tensor; case and white space do not count."""
    plain = " ".join(text.lower().split())
    return int.from_bytes(hashlib.blake2b(plain.encode("utf-8", "replace"), digest_size=8).digest()) >> 1


def _examples(row: Any, objective: Objective, columns: Mapping[str, str], where: str) -> list[Example]:
    if isinstance(row, BadData):
        raise row
    if not isinstance(row, dict):
        raise BadData(f"{where}: a row must be an object, not {type(row).__name__}")

    def value(name: str, *, needed: bool) -> Any:
        names = (columns[name],) if name in columns else (name, *_OTHER_NAMES[name])
        found = next((row[n] for n in names if n in row and row[n] is not None), None)
        if found is None and needed and any(n in row for n in names):
            raise BadData(f"{where}: {name} must be a text that is not empty")
        if found is None and needed:
            raise BadData(f"{where}: no column {names[0]!r}; the row has {', '.join(map(str, row)) or 'none'}")
        return found

    def text(found: Any, name: str) -> str:
        if not isinstance(found, str) or not found.strip():
            raise BadData(f"{where}: {name} must be a text that is not empty")
        if not is_whole(found):
            raise BadData(f"{where}: {name} holds half a character")
        return found

    if objective == "unsupervised":
        found = value("text", needed="text" in columns or "positive" not in row)
        return [Example(None, text(row["positive"] if found is None else found, "text"), (), where)]
    query = text(value("query", needed=True), "query")
    positives = listed(value("positive", needed=True))
    negatives = tuple(text(n, "a negative") for n in listed(value("negatives", needed=False)))
    if not positives:
        raise BadData(f"{where}: positive is an empty list")
    return [Example(query, text(p, "positive"), negatives, where) for p in positives]


def is_whole(text: str) -> bool:
    """Whether UTF-8 can spell it: JSON may hold half of an emoji, a lone surrogate, which no library after it takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def listed(value: Any) -> list[Any]:
    """What one column holds for a list of texts: none, one text alone, or the list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def rows(*sources: str) -> Iterator[tuple[str, Any]]:
    """Every row of files, folders of files or hub data, each with its place; a row that is not JSON is its error.

    Raises:
        BadData: a file is of no known kind, or is not there.
    """
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file() and _kind(p) is not None)
            if not files:
                raise BadData(f"{path}: no data file here")
            for file in files:
                yield from file_rows(file)
        elif path.exists():
            yield from file_rows(path)
        elif path.suffix or source.count("/") > 1:
            raise BadData(f"{source}: no such file")
        else:
            yield from _hub_rows(source)


def _kind(path: Path) -> str | None:
    name = path.name.removesuffix(".gz").removesuffix(".xz")
    suffix = Path(name).suffix
    return {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}.get(suffix)


def file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row of a file with the line it came from; in place of a row that cannot be read, its `BadData`.

    Raises:
        BadData: the file is of no known kind, or damaged.
    """
    kind = _kind(path)
    if kind is None:
        raise BadData(f"{path}: not a .jsonl, .csv, .parquet or .txt file (packed with .gz or .xz, or not)")
    if kind == "parquet":
        yield from _parquet_rows(path)
        return
    with open_text(path, newline="" if kind == "csv" else None) as stream:
        try:
            if kind == "csv":
                yield from _csv_rows(stream, path.name)
                return
            for number, line in enumerate(stream, start=1):
                where = f"{path.name}:{number}"
                if kind == "text":
                    if line.strip():
                        yield where, {"text": line.rstrip("\n")}
                elif line.strip():
                    yield where, _parsed(line, where)
        except UnicodeDecodeError as error:
            raise BadData(f"{path}: not UTF-8 at byte {error.start}") from error
        except _DAMAGE as error:
            raise BadData(f"{path}: damaged, or not packed as its name says: {error}") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise BadData(f"{path}: no Parquet that can be read: {error}") from error
    for number, row in enumerate(found, start=1):
        yield f"{path.name}:{number}", row


def _csv_rows(stream: TextIO, name: str) -> Iterator[tuple[str, Any]]:
    # The limit is the whole process's (Python's own is 131,072): it is raised for others, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), _CSV_FIELD))
    reader = csv.DictReader(stream)
    try:
        columns = reader.fieldnames or ()
    except csv.Error as error:
        raise BadData(f"{name}:1: not CSV: {error}") from error
    while True:
        try:
            row: Any = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            row = BadData(f"{name}:{reader.reader.line_num}: not CSV: {error}")
        where = f"{name}:{reader.reader.line_num}"
        if isinstance(row, dict) and None in row:
            row = BadData(f"{where}: {len(row[None])} more cells than the {len(columns)} columns of the header")
        elif isinstance(row, dict):
            row = {column: cell or None for column, cell in row.items()}  # CSV has no other way to say "none"
        yield where, row


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter of brackets within brackets
        # Handed on in place of the row, so that skipping and counting happen in one place.
        return BadData(f"{where}: not JSON: {error}")


def open_text(path: Path, *, newline: str | None = None) -> TextIO:
    """A text file, packed or not, as its name says; without its byte order mark, and lines end as `open` has them."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline=newline)
    if path.suffix == ".xz":
        return lzma.open(path, "rt", encoding="utf-8-sig", newline=newline)
    return open(path, encoding="utf-8-sig", newline=newline)


def _hub_rows(name: str) -> Iterator[tuple[str, Any]]:
    from datasets import load_dataset

    try:
        dataset = load_dataset(name, split="train")
    except Exception as error:
        raise BadData(f"{name!r} is no file here, and the hub could not give it: {error}") from error
    for number, row in enumerate(dataset, start=1):
        yield f"{name}:{number}", row
