"""Why a document has its score: the contribution of every pair of sentences, from stored sums, without a model call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grace.attribution import Floats as Doubles
from grace.attribution import contributions, without_each
from grace.pooling import Pooling, pooled_sources
from grace.representation import Rationale, Segment, Source, segment_text
from grace_server.index.vectors import Floats


class Unexplainable(Exception):
    """The score cannot be taken apart exactly; the message says why."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment of a side: a sentence of the text or of the rationale, or the template between them."""

    source: Source
    text: str
    start: int  # in characters, of the text or of the rationale
    end: int
    contribution: float  # to the score: the sum of its pairs
    without: float | None  # the score if its sum is left out; None: nothing is left, or the metric knows lengths


@dataclass(frozen=True, slots=True)
class Pair:
    """What two segments add to the score. `query` and `document` are places in the lists of pieces."""

    query: int
    document: int
    contribution: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """All pairs, the largest contribution first; they add up to the score (to 1e-5)."""

    score: float
    query: tuple[Piece, ...]
    document: tuple[Piece, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A query or a document, with what its vector was made of."""

    text: str
    rationale: Rationale | None
    segments: tuple[Segment, ...]
    sums: Floats  # (S, H)


def explain(
    query: Side, document: Side, *, score: float, pooling: Pooling, dimensions: int | None, scale: float
) -> Explanation:
    """Take a score apart. `scale` is the product of the vectors' lengths: 1 for cosines.

    Raises:
        Unexplainable: the pooling reads one state, which no sentence owns.
    """
    if pooling == "last":
        raise Unexplainable("pooling 'last' reads one state, which is no sum over sentences")
    kept = [
        [i for i, segment in enumerate(side.segments) if segment.source in pooled_sources(pooling)]
        for side in (query, document)
    ]
    asked, found = query.sums[kept[0]], document.sums[kept[1]]
    table = contributions(asked, found, dimensions=dimensions) * scale
    places = np.argsort(-table, axis=None, kind="stable")
    rows, columns = np.unravel_index(places, table.shape)
    pairs = tuple(Pair(int(i), int(j), float(table[i, j])) for i, j in zip(rows, columns, strict=True))
    cosine = scale == 1.0
    without_asked = without_each(asked, found, dimensions=dimensions) if cosine else [None] * len(asked)
    without_found = without_each(found, asked, dimensions=dimensions) if cosine else [None] * len(found)
    return Explanation(
        score,
        _pieces(query, kept[0], table.sum(axis=1), without_asked),
        _pieces(document, kept[1], table.sum(axis=0), without_found),
        pairs,
    )


def _pieces(side: Side, kept: list[int], added: Doubles, without: Sequence[float | None]) -> tuple[Piece, ...]:
    return tuple(
        Piece(
            source=(segment := side.segments[i]).source,
            text=segment_text(segment, text=side.text, rationale=side.rationale),
            start=segment.start,
            end=segment.end,
            contribution=contribution,
            without=rest,
        )
        for i, contribution, rest in zip(kept, added.tolist(), without, strict=True)
    )
