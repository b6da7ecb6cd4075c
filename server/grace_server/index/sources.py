"""Documents out of files, one at a time: JSONL and CSV (also packed with gzip or xz), Parquet, a folder of texts."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from grace_server.index.errors import InvalidValue

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".text")
_KNOWN = ("id", "text", "metadata", "rationale", "vector", "fingerprint", "made_with")
_JSON_NAMES = {dict: "an object", list: "a list of numbers", str: "a text"}
_PARQUET_ROWS = 1_024
_CSV_FIELD = 16 * 1024 * 1024  # characters; a longer field is an open quote that swallows rows
_UNREADABLE = (UnicodeDecodeError, csv.Error, EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)


@dataclass(frozen=True, slots=True)
class Columns:
    """Which fields of a record are what. Texts are joined with a blank line; all other fields become metadata."""

    id: str = "id"
    text: tuple[str, ...] = ("text",)
    numbers: tuple[str, ...] = ()  # columns of a CSV, whose cells are texts otherwise


def read_documents(path: Path, columns: Columns) -> Iterator[dict[str, Any]]:
    """The documents of a file or a folder, in an order that never changes. `place` says where each was.

    Raises:
        InvalidValue: of an unknown kind, or a record that is no document; names file and line.
    """
    if path.is_dir():
        yield from _folder(path)
        return
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = next((s for s in reversed(suffixes) if s not in (".gz", ".xz")), "")
    match kind:
        case ".jsonl" | ".ndjson":
            records: Iterator[tuple[int, Any]] = _jsonl(path)
        case ".csv" | ".tsv":
            records = _csv(path, "\t" if kind == ".tsv" else ",")
        case ".parquet":
            records = _parquet(path)
        case _:
            raise InvalidValue(
                f"{path.name}: not a kind of file this reads: .jsonl, .csv, .tsv (or .gz, .xz), .parquet, a folder",
                param="source",
            )
    line = 0
    try:
        for line, record in records:
            yield _document(record, columns, f"{path.name}, record {line}")
    except _UNREADABLE as error:
        raise InvalidValue(f"{path.name}, after record {line}: cannot be read: {error}", param="source") from error


def count_documents(path: Path) -> int | None:
    """How many documents there are, or None if counting means reading all of a packed file."""
    if path.is_dir():
        return sum(1 for _ in _files(path))
    if path.suffix.lower() == ".parquet":
        with _parquet_file(path) as file:
            return int(file.metadata.num_rows)
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        with path.open("rb") as file:
            return sum(1 for line in file if line.strip())
    return None


def _document(record: Any, columns: Columns, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise InvalidValue(f"{where}: must be an object", param="source")
    if record.get(columns.id) in (None, ""):
        raise InvalidValue(f"{where}: has no {columns.id!r}", param="source")
    parts = [record[name] for name in columns.text if record.get(name)]
    metadata = record.get("metadata")
    if isinstance(metadata, str):
        metadata = _json(metadata, f"{where}, metadata") if metadata else {}
    for name, value, kind in (
        ("metadata", metadata, dict),
        ("vector", record.get("vector"), list),
        ("made_with", record.get("made_with"), dict),
        ("fingerprint", record.get("fingerprint"), str),
    ):
        if value is not None and not isinstance(value, kind):
            raise InvalidValue(f"{where}, {name}: must be {_JSON_NAMES[kind]}", param="source")
    used = {columns.id, *columns.text, *_KNOWN}
    rest = {key: _number(value, where) if key in columns.numbers else value for key, value in record.items()}
    rest = {key: value for key, value in rest.items() if key not in used}
    return {
        "id": str(record[columns.id]),
        "text": "\n\n".join(str(part) for part in parts),
        "metadata": {**rest, **(metadata or {})},
        "rationale": record.get("rationale"),
        "vector": record.get("vector"),
        "fingerprint": record.get("fingerprint"),
        "made_with": record.get("made_with"),
        "place": where,
    }


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValue(f"{where}: not JSON: {error}", param="source") from error


def _number(value: Any, where: str) -> int | float | None:
    if value in (None, ""):
        return None
    try:
        return int(value) if str(value).strip().lstrip("+-").isdigit() else float(value)
    except ValueError as error:
        raise InvalidValue(f"{where}: {value!r} is no number", param="source") from error


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            yield number, _json(line, f"{path.name}, line {number}")


def _csv(path: Path, delimiter: str) -> Iterator[tuple[int, Any]]:
    # The limit is the whole process's: it is raised for others, never lowered.
    csv.field_size_limit(max(csv.field_size_limit(), _CSV_FIELD))
    with _open(path) as file:
        for number, row in enumerate(csv.DictReader(file, delimiter=delimiter), start=1):
            row.pop(None, None)  # cells beyond the header's
            if isinstance(vector := row.get("vector"), str):
                where = f"{path.name}, record {number}, vector"
                row = {**row, "vector": _json(vector, where) if vector else None}
            if row.get("rationale") == "":  # an empty cell says nothing, where other kinds can say null
                row = {**row, "rationale": None}
            yield number, row


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    with _parquet_file(path) as file:
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, row


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    """A `ParquetFile`; whatever Arrow says of a damaged one, as of texts or times that are none, is told as ours."""
    import pyarrow  # slow to import, and only this kind needs it
    import pyarrow.parquet as parquet

    with path.open("rb") as opened:
        try:
            with parquet.ParquetFile(opened) as file:
                yield file
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            raise InvalidValue(f"{path.name}: cannot be read as Parquet: {error}", param="source") from error


def _folder(path: Path) -> Iterator[dict[str, Any]]:
    for file in _files(path):
        name = file.relative_to(path).as_posix()
        text = file.read_text(encoding="utf-8-sig", errors="replace")
        yield {"id": name, "text": text, "metadata": {"path": name}, "place": name}


def _files(path: Path) -> Iterator[Path]:
    return iter(sorted(f for f in path.rglob("*") if f.suffix.lower() in TEXT_SUFFIXES and f.is_file()))


def _open(path: Path) -> IO[str]:
    match path.suffix.lower():
        case ".gz":
            return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8-sig", newline="")
        case ".xz":
            return io.TextIOWrapper(lzma.open(path, "rb"), encoding="utf-8-sig", newline="")
        case _:
            return path.open(encoding="utf-8-sig", newline="")
