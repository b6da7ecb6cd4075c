"""Metadata taken apart into entries (path, kind, value), so that a filter is a look-up in an index.

The table `field` holds the entries of every document. It is derived from `document.metadata`, kept up to date in the
same transaction, checked by `verify`, and made again where its format is an older one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from grace_server.index.store import Connection

Entry = tuple[str, int, int | float | str]  # path, kind, value
Scalar = str | int | float | bool | None

FORMAT = "1"  # of the entries; those of another one are made again
NUMBER, TEXT, TRUTH, DATE, NULL, OTHER = range(6)  # NULL is kept of elements only; OTHER is a list or an object
ELEMENT = 8  # added to the kind of what stands in a list
LONGEST_TEXT = 200  # characters; of a longer text the first so many are kept

_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
)
_UNREACHABLE = re.compile(r'["\\.\x00-\x1f]')  # what no filter's path can name
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE = 2_000


def path_of(keys: Iterable[str]) -> str:
    """SQLite's JSON path of nested keys, each quoted."""
    return "$" + "".join(f'."{key}"' for key in keys)


def scalar_entry(value: Scalar) -> tuple[int, int | float | str]:
    """Kind and value of a scalar."""
    match value:
        case None:
            return NULL, 0
        case bool():
            return TRUTH, int(value)
        case str():
            return TEXT, value[:LONGEST_TEXT]
        case _:
            return NUMBER, value


def instant(text: str) -> int | None:
    """Microseconds since 1970 of an ISO 8601 date with or without time and zone (else UTC); None if it is none."""
    if not _ISO.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def entries(metadata: dict[str, Any]) -> set[Entry]:
    """All entries of checked metadata."""
    found: set[Entry] = set()
    _collect(metadata, "$", found)
    return found


def add(connection: Connection, documents: Iterable[tuple[int, Iterable[Entry]]]) -> None:
    """Add the entries of documents, given by label."""
    rows = [(*entry, label) for label, some in documents for entry in some]
    rows.sort(key=lambda row: row[0])  # neighbours in the index come together
    connection.executemany("INSERT OR IGNORE INTO field VALUES (?, ?, ?, ?)", rows)


def remove(connection: Connection, documents: Iterable[tuple[int, str]]) -> None:
    """Remove the entries of documents, given by label and stored metadata."""
    rows = ((*entry, label) for label, metadata in documents for entry in entries(json.loads(metadata)))
    connection.executemany("DELETE FROM field WHERE path = ? AND kind = ? AND value = ? AND label = ?", rows)


def rebuild(connection: Connection) -> None:
    """Make all entries anew, and record their format."""
    connection.execute("DELETE FROM field")
    for page in _pages(connection):
        add(connection, ((label, entries(json.loads(text))) for label, text in page))
    connection.execute("INSERT OR REPLACE INTO setting VALUES ('fields', ?)", (FORMAT,))


def is_right(connection: Connection) -> bool:
    """Whether the entries are those of the stored metadata, no more and no fewer."""
    expected = 0
    for page in _pages(connection):
        for label, text in page:
            for entry in entries(json.loads(text)):
                expected += 1
                found = connection.execute(
                    "SELECT 1 FROM field WHERE path = ? AND kind = ? AND value = ? AND label = ?", (*entry, label)
                ).fetchone()
                if found is None:
                    return False
    return bool(connection.execute("SELECT count(*) FROM field").fetchone()[0] == expected)


def _collect(metadata: dict[str, Any], path: str, found: set[Entry]) -> None:
    for key, value in metadata.items():
        if not key or _UNREACHABLE.search(key):
            continue
        here = f'{path}."{key}"'
        match value:
            case dict():
                found.add((here, OTHER, 0))
                _collect(value, here, found)
            case list():
                found.add((here, OTHER, 0))
                for element in value:
                    if not isinstance(element, dict | list):
                        kind, kept = scalar_entry(element)
                        found.add((here, ELEMENT + kind, kept))
            case None:
                pass
            case _:
                found.add((here, *scalar_entry(value)))
                if isinstance(value, str) and (moment := instant(value)) is not None:
                    found.add((here, DATE, moment))


def _pages(connection: Connection) -> Iterator[list[tuple[int, str]]]:
    after = -1
    while page := connection.execute(
        "SELECT label, metadata FROM document WHERE label > ? ORDER BY label LIMIT ?", (after, _PAGE)
    ).fetchall():
        yield page
        after = page[-1][0]
