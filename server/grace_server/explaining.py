"""All that `/explain` says of two sides, and of a third that one of them is held against. No model call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grace.attribution import Floats as Doubles
from grace_server.attribution_table import Margin, Table, left_out, take_apart
from grace_server.comparison import Compared
from grace_server.index.collection import Collection
from grace_server.index.explanation import Centred, centred_view
from grace_server.index.mean import Mean
from grace_server.index.ranking import RANKED, Ranks, place_at, ranks, without
from grace_server.sides import Side


@dataclass(frozen=True, slots=True)
class Asked:
    """What of it is wanted."""

    dimensions: int | None
    top_pairs: int
    without: tuple[Sequence[int], Sequence[int]] | None
    ranks: bool
    centred: bool


@dataclass(frozen=True, slots=True)
class Without:
    """The score, and the rank in the index, with some segments left out."""

    score: float | None  # None: nothing is left
    rank: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """The one removal that moves the document furthest in the index."""

    side: Literal["first", "second"]
    segment: int
    rank: int | None  # None: out of the first RANKED


@dataclass(frozen=True, slots=True, eq=False)
class Against:
    """Why the second side scores higher or lower than a third: their tables have the same rows."""

    table: Table
    gap: float  # score less the other's
    by_first: Doubles  # (S,) what each segment of the first side adds to the gap; they add up to it


@dataclass(frozen=True, slots=True, eq=False)
class Full:
    """A score, and everything that was asked about it."""

    table: Table
    ranks: Ranks | None
    largest_change: Change | None
    without: Without | None
    centred: Centred | None
    mean: Mean | None
    against: Against | None


def take_apart_fully(sides: Sequence[Compared], collection: Collection | None, asked: Asked) -> Full:
    """Tables, ranks and differences of two or three sides. Blocking: ranks search the index.

    Raises:
        TooLarge: a table would have too many cells.
        InvalidValue: a segment to leave out is not there.
    """
    first, second = sides[0].side, sides[1].side
    table = take_apart(first, second, dimensions=asked.dimensions, top_pairs=asked.top_pairs)
    label = _label(sides) if collection and asked.ranks else None
    found = None
    if collection and label is not None:
        rests = [row.without for row in table.second.rows]
        found = ranks(collection, first, label, without_document=rests)
    mean = collection.mean() if collection and asked.centred else None
    against = None
    if len(sides) > 2:
        other = take_apart(first, sides[2].side, dimensions=asked.dimensions, top_pairs=asked.top_pairs)
        by_first = table.table.sum(axis=1) - other.table.sum(axis=1)
        against = Against(other, table.score - other.score, by_first)
    return Full(
        table,
        found,
        None if found is None else _largest_change(found, table),
        None if asked.without is None else _without(first, second, asked, collection, label),
        None if mean is None else centred_view(first, second, mean, dimensions=asked.dimensions),
        mean,
        against,
    )


def _label(sides: Sequence[Compared]) -> int | None:
    """Of the document whose rank is asked for: one of the index, found by a text."""
    first, second = sides[0], sides[1]
    return second.document.label if second.document is not None and first.document is None else None


def _without(first: Side, second: Side, asked: Asked, collection: Collection | None, label: int | None) -> Without:
    assert asked.without is not None
    score = left_out(first, second, dimensions=asked.dimensions, out=asked.without)
    if collection is None or label is None or score is None:
        return Without(score, None)
    query = without(first, asked.without[0])
    if query is None:
        return Without(score, None)
    [answer] = collection.dense(query[None], RANKED)
    return Without(score, place_at(answer, label, score))


def _largest_change(found: Ranks, table: Table) -> Change | None:
    if (now := found.rank) is None:
        return None
    moves: list[Change] = []
    sides: tuple[tuple[Literal["first", "second"], Margin, tuple[int | None, ...]], ...] = (
        ("second", table.second, found.without_document),
        ("first", table.first, found.without_query),
    )
    for side, margin, ranks_of in sides:
        for i, (row, rank) in enumerate(zip(margin.rows, ranks_of, strict=True)):
            if row.without is not None and rank != now:
                moves.append(Change(side, i, rank))
    return max(moves, key=lambda move: abs((RANKED + 1 if move.rank is None else move.rank) - now), default=None)
