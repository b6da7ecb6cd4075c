"""A score, taken apart: rows for the sentences of the one side, columns for those of the other. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grace.attribution import Floats as Doubles
from grace.attribution import contributions, gram, score_of, shares, without_each
from grace.representation import Source
from grace_server.errors import InvalidValue, TooLarge
from grace_server.sides import Part, Side


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
    without: float | None  # the score if its row is left out; None: nothing would be left


@dataclass(frozen=True, slots=True, eq=False)
class Margin:
    """One side of the table."""

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
    first: Margin
    second: Margin
    pairs: tuple[Pair, ...]  # the largest contributions, largest first


MAX_CELLS = 1_000_000  # of a table: about 20 MB on the wire
MAX_GRAM_SEGMENTS = 500  # of a side: its gram is a square
_LEAST_SCORE = 1e-6  # a share of less would be a quotient of roundings


def take_apart(first: Side, second: Side, *, dimensions: int | None, top_pairs: int, grams: bool = True) -> Table:
    """The cosine of two sides' vectors, and its parts.

    Raises:
        TooLarge: the table would have more than MAX_CELLS.
    """
    if (cells := len(first.parts) * len(second.parts)) > MAX_CELLS:
        raise TooLarge(
            f"the table would have {len(first.parts)} x {len(second.parts)} = {cells} cells, the limit is {MAX_CELLS}"
        )
    score = cosine(first.vector, second.vector)
    table = contributions(first.rows, second.rows, dimensions=dimensions)
    return Table(
        score,
        table,
        _margin(first, second, table.sum(axis=1), score, dimensions, grams),
        _margin(second, first, table.sum(axis=0), score, dimensions, grams),
        top(table, top_pairs),
    )


def top(table: Doubles, count: int) -> tuple[Pair, ...]:
    """The largest cells, largest first."""
    places = np.argsort(-table, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(places, table.shape)
    return tuple(Pair(int(i), int(j), float(table[i, j])) for i, j in zip(rows, columns, strict=True))


def left_out(
    first: Side, second: Side, *, dimensions: int | None, out: tuple[Sequence[int], Sequence[int]]
) -> float | None:
    """The cosine without some segments of either side; None if nothing with a direction is left.

    Raises:
        InvalidValue: a side has no such segment.
    """
    kept = []
    for name, side, places in zip(("first", "second"), (first, second), out, strict=True):
        keep = np.ones(len(side.parts), dtype=bool)
        for place in places:
            if place >= len(keep):
                raise InvalidValue(
                    f"without.{name} holds {place}, but the last of its {len(keep)} segments is {len(keep) - 1}",
                    param=f"without.{name}",
                )
            keep[place] = False
        kept.append(keep)
    return score_of(
        contributions(first.rows, second.rows, dimensions=dimensions),
        gram(first.rows, dimensions=dimensions),
        gram(second.rows, dimensions=dimensions),
        keep_a=kept[0],
        keep_b=kept[1],
    )


def portions(rows: Iterable[tuple[Source, float]], score: float) -> tuple[Portion, ...]:
    """What each source adds, in the order in which they come."""
    by_source: dict[Source, float] = {}
    for source, contribution in rows:
        by_source[source] = by_source.get(source, 0.0) + contribution
    return tuple(
        Portion(source, total, total / score if abs(score) >= _LEAST_SCORE else None)
        for source, total in by_source.items()
    )


def cosine(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """The cosine of two vectors; 0 where one has no length."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    scale = float(np.linalg.norm(wide_a) * np.linalg.norm(wide_b))
    return float(wide_a @ wide_b) / scale if scale > 0 else 0.0


def _margin(
    side: Side,
    other: Side,
    added: Doubles,  # (S,) contributions
    score: float,
    dimensions: int | None,
    grams: bool,
) -> Margin:
    own = shares(side.rows, dimensions=dimensions)
    without = without_each(side.rows, other.rows, dimensions=dimensions)
    rows = tuple(
        Row(part, float(share), float(contribution), rest)
        for part, share, contribution, rest in zip(side.parts, own, added, without, strict=True)
    )
    inner = gram(side.rows, dimensions=dimensions) if grams and len(rows) <= MAX_GRAM_SEGMENTS else None
    return Margin(rows, portions(((row.part.source, row.contribution) for row in rows), score), inner)
