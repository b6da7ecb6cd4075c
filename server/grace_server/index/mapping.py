"""A map of a collection: its documents on a plane, what they can be coloured by, and where a query lies among them."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from grace_server.index import reading
from grace_server.index.collection import Collection
from grace_server.index.errors import Conflict
from grace_server.index.projection import Doubles, Plane, plane_of
from grace_server.index.store import Connection
from grace_server.index.vectors import Labels

MAX_POINTS = 20_000
MAX_NAMES = 64  # values of a field told apart by name
MAX_FIELDS = 64
MAX_NAME_CHARS = 120
MAPS_KEPT = 4

Kind = Literal["category", "number"]


@dataclass(frozen=True, slots=True)
class MapField:
    """A field of the metadata that points can be coloured by."""

    name: str
    kind: Kind  # `number` if every value is one
    documents: int  # that have it
    distinct: int


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """At most MAX_POINTS documents, in the order of their labels, as they were at `seq`."""

    seq: int
    documents: int  # with a vector; more than there are points if the map shows a part of them
    labels: Labels  # (N,)
    ids: tuple[str, ...]
    points: Doubles  # (N, 2)
    plane: Plane
    fields: tuple[MapField, ...]


@dataclass(frozen=True, slots=True)
class Values:
    """A field's value at each point. Of categories the place in `names`, len(names) for rarer ones; None: no value."""

    field: str
    kind: Kind
    names: tuple[str, ...]  # most frequent first; empty for numbers
    values: tuple[float | int | None, ...]  # (N,)


@dataclass(slots=True)
class Maps:
    """The last few maps, by collection and `seq`: drawing one again costs nothing. Safe from any thread."""

    _kept: OrderedDict[tuple[str, int], Map] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # of `_kept`; never held for long
    _drawing: threading.Lock = field(default_factory=threading.Lock)

    def current(self, collection: Collection) -> Map:
        """The map of a collection as it is now. Blocking: at most one is computed at a time."""
        with self._drawing, collection.store.reading() as connection:
            key = (collection.id, reading.last_seq(connection))
            with self._lock:
                found = self._kept.get(key)
            found = found or _draw(connection, dimensions=collection.dimensions)
            with self._lock:
                self._kept[key] = found
                self._kept.move_to_end(key)
                while len(self._kept) > MAPS_KEPT:
                    self._kept.popitem(last=False)
            return found

    def of(self, collection: Collection, seq: int) -> Map:
        """The map that was answered with this `seq`. Does not wait for one that is being drawn.

        Raises:
            Conflict: it is no longer kept.
        """
        with self._lock:
            found = self._kept.get((collection.id, seq))
        if found is None:
            raise Conflict(f"the map of seq {seq} is not kept any more: ask for the map again", param="seq")
        return found


def values_of(collection: Collection, chart: Map, name: str) -> Values:
    """A field of the metadata at each point of a map. Documents changed since then show their new value."""
    rows = collection.store.read(
        lambda c: c.execute(
            "SELECT label, value, type FROM document, json_each(document.metadata) "
            "WHERE state = 'ready' AND key = ? AND type IN ('text', 'integer', 'real', 'true', 'false')",
            (name,),
        ).fetchall()
    )
    if rows and all(kind in ("integer", "real") for _, _, kind in rows):
        numbers = {label: value for label, value, _ in rows}
        return Values(name, "number", (), tuple(numbers.get(label) for label in chart.labels.tolist()))
    shown = {label: kind if kind in ("true", "false") else str(value)[:MAX_NAME_CHARS] for label, value, kind in rows}
    here = [shown.get(label) for label in chart.labels.tolist()]
    counted = Counter(value for value in here if value is not None)
    names = tuple(sorted(counted, key=lambda value: (-counted[value], value))[:MAX_NAMES])
    place = {value: at for at, value in enumerate(names)}
    return Values(
        name, "category", names, tuple(None if value is None else place.get(value, len(names)) for value in here)
    )


def _draw(connection: Connection, *, dimensions: int) -> Map:
    seq = reading.last_seq(connection)
    labels = reading.searchable(connection)
    documents = len(labels)
    if documents > MAX_POINTS:  # evenly from the oldest to the newest
        labels = labels[np.linspace(0, documents - 1, MAX_POINTS).astype(np.int64)]
    labels, vectors = reading.vectors(connection, labels, dimensions=dimensions)
    names = dict(connection.execute("SELECT label, id FROM document WHERE state = 'ready'"))
    plane = plane_of(vectors)
    return Map(
        seq=seq,
        documents=documents,
        labels=labels,
        ids=tuple(names[label] for label in labels.tolist()),
        points=plane.place(vectors),
        plane=plane,
        fields=_fields(connection),
    )


def _fields(connection: Connection) -> tuple[MapField, ...]:
    rows = connection.execute(
        "SELECT key, count(*), count(DISTINCT value), sum(type IN ('integer', 'real')) "
        "FROM document, json_each(document.metadata) "
        "WHERE state = 'ready' AND type IN ('text', 'integer', 'real', 'true', 'false') "
        "GROUP BY key ORDER BY count(*) DESC, key LIMIT ?",
        (MAX_FIELDS,),
    )
    return tuple(
        MapField(name, "number" if numbers == documents else "category", documents, distinct)
        for name, documents, distinct, numbers in rows
    )
