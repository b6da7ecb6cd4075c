"""The score of two texts, taken apart: rows for the sentences of the first, columns for those of the second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grace.attribution import Floats as Doubles
from grace.attribution import contributions, gram, shares, without_each
from grace.pooling import Floats
from grace.representation import Source
from grace_server.embedding import Embedded
from grace_server.errors import TooLarge
from grace_server.segments import Part, parts


@dataclass(frozen=True, slots=True)
class Portion:
    """What all segments of one source add to the score."""

    source: Source
    contribution: float
    share: float | None  # of the score; None where that is too near 0 to divide by


@dataclass(frozen=True, slots=True)
class Row:
    """One segment of a side, and what it does."""

    part: Part
    share: float  # of its own vector
    contribution: float  # to the score; those of a side add up to it
    without: float | None  # the score if its sum is left out; None: nothing would be left


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of the two texts."""

    rows: tuple[Row, ...]
    portions: tuple[Portion, ...]
    gram: Doubles | None  # (S, S) inner products of its segments, adding up to 1; None over MAX_GRAM_SEGMENTS


@dataclass(frozen=True, slots=True)
class Pair:
    """What two segments add to the score, by their places."""

    first: int
    second: int
    contribution: float


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A score and all it is made of."""

    score: float
    table: Doubles  # (S, R), adding up to the score (to 1e-5)
    first: Side
    second: Side
    pairs: tuple[Pair, ...]  # the largest contributions, largest first


MAX_CELLS = 1_000_000  # of a table: about 20 MB on the wire
MAX_GRAM_SEGMENTS = 500  # of a side: its gram is a square
_LEAST_SCORE = 1e-6  # a share of less would be a quotient of roundings


def take_apart(first: Embedded, second: Embedded, *, dimensions: int | None, top_pairs: int) -> Table:
    """The score that search would give the two vectors, and its parts. Both must have been pooled at unit length.

    Raises:
        TooLarge: the table would have more than MAX_CELLS.
    """
    score = float(first.vector.astype(np.float64) @ second.vector.astype(np.float64))
    parts_a, sums_a = parts(first, dimensions=dimensions)
    parts_b, sums_b = parts(second, dimensions=dimensions)
    if (cells := len(parts_a) * len(parts_b)) > MAX_CELLS:
        raise TooLarge(
            f"the table would have {len(parts_a)} x {len(parts_b)} = {cells} cells, the limit is {MAX_CELLS}"
        )
    table = contributions(sums_a, sums_b, dimensions=dimensions)
    places = np.argsort(-table, axis=None, kind="stable")[:top_pairs]
    rows, columns = np.unravel_index(places, table.shape)
    return Table(
        score,
        table,
        _side(parts_a, sums_a, sums_b, table.sum(axis=1), score, dimensions),
        _side(parts_b, sums_b, sums_a, table.sum(axis=0), score, dimensions),
        tuple(Pair(int(i), int(j), float(table[i, j])) for i, j in zip(rows, columns, strict=True)),
    )


def _side(
    found: list[Part],
    sums: Floats,  # (S, H)
    other: Floats,  # (R, H)
    added: Doubles,  # (S,) contributions
    score: float,
    dimensions: int | None,
) -> Side:
    own = shares(sums, dimensions=dimensions)
    without = without_each(sums, other, dimensions=dimensions)
    rows = tuple(
        Row(part, float(share), float(contribution), rest)
        for part, share, contribution, rest in zip(found, own, added, without, strict=True)
    )
    by_source: dict[Source, float] = {}
    for row in rows:
        by_source[row.part.source] = by_source.get(row.part.source, 0.0) + row.contribution
    portions = tuple(
        Portion(source, total, total / score if abs(score) >= _LEAST_SCORE else None)
        for source, total in by_source.items()
    )
    inner = gram(sums, dimensions=dimensions) if len(rows) <= MAX_GRAM_SEGMENTS else None
    return Side(rows, portions, inner)
