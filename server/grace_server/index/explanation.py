"""Why documents have their scores and ranks: exact arithmetic on stored sums, without a model call.

Ranks here are among the hits of one answer: a removal that would let a document of another page pass is seen by
`POST /explain`, which searches the whole index again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from grace.attribution import Floats as Doubles
from grace.attribution import contributions, fitted
from grace.pooling import pooled_sources, unit
from grace.representation import Rationale, Segment, segment_text
from grace_server.attribution_table import Margin, Pair, Portion, Row, Table, take_apart
from grace_server.index import reading
from grace_server.index.collection import Collection
from grace_server.index.document import Document
from grace_server.index.mean import Mean
from grace_server.index.model import Represented
from grace_server.index.ranking import ahead
from grace_server.index.vectors import Floats
from grace_server.sides import Part, Side, token_weights


class Unexplainable(Exception):
    """The score cannot be taken apart exactly; the message says why."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment of a side: a sentence of the text or of the rationale, or the template between them."""

    row: Row
    rank_without: int | None  # of the hit among the hits, if its sum is left out; None: not known


@dataclass(frozen=True, slots=True)
class Change:
    """The one removal that moves a hit furthest among the hits."""

    side: Literal["query", "document"]
    segment: int
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class Centred:
    """The same score with the mean of the collection subtracted from both vectors."""

    score: float
    table: Doubles  # (S, R), adding up to it


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """A score and all it is made of."""

    score: float
    table: Doubles  # (S, R), adding up to the score (to 1e-5)
    query: tuple[Piece, ...]
    document: tuple[Piece, ...]
    query_sources: tuple[Portion, ...]
    document_sources: tuple[Portion, ...]
    pairs: tuple[Pair, ...]  # the largest contributions, largest first
    rank: int | None  # among the hits, from 1; None where a removal has no rank
    largest_change: Change | None  # None: no single removal moves it
    centred: Centred | None
    query_gram: Doubles | None = None  # as `attribution_table.Margin` has them, where they were asked for
    document_gram: Doubles | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A hit to explain."""

    document: Document
    score: float | None  # of dense search; None: it was not found by it


def explain(
    collection: Collection,
    made: Represented | None,
    found: Sequence[Found],
    *,
    ranked: bool,  # the hits are in the order of their dense scores
    top_pairs: int,
    mean: Mean | None,
    grams: bool = False,
) -> list[Explanation | str]:
    """An explanation of each hit, or why there is none."""
    if made is None:
        why = "a BM25 score is made of word counts, not of sentence vectors"
        given = "the query was given as a vector, whose sentences are not known"
        return [why if hit.score is None else given for hit in found]
    query = asked_side(collection, made)
    vectors = _vectors(collection, [hit.document.label for hit in found])
    ranks = _Ranks(query, found, vectors) if ranked and collection.settings.metric == "cosine" else None
    explained: list[Explanation | str] = []
    for place, hit in enumerate(found):
        try:
            if hit.score is None:
                raise Unexplainable("a BM25 score is made of word counts, not of sentence vectors")
            if (vector := vectors.get(hit.document.label)) is None:
                raise Unexplainable("the document was deleted or replaced just now")
            document = stored_side(collection, hit.document, vector)
            explained.append(_explain(collection, query, document, hit.score, place, ranks, top_pairs, mean, grams))
        except Unexplainable as error:
            explained.append(str(error))
    return explained


def asked_side(collection: Collection, made: Represented) -> Side:
    """A query as a side."""
    found = made.representation
    return _side(
        collection, found.segments, found.sums, text=made.job.text, rationale=found.rationale, vector=made.vector
    )


def stored_side(collection: Collection, document: Document, vector: Floats) -> Side:
    """A document as a side, from what the index keeps of it.

    Raises:
        Unexplainable: nothing is kept that its vector could be made of exactly.
    """
    if document.given == "vector":
        raise Unexplainable("the document was given as a vector, whose sentences are not known")
    if (stored := collection.sums(document.label)) is None:
        raise Unexplainable("this index keeps no sums (settings.sums is 'none')")
    side = _side(
        collection, stored.segments, stored.sums, text=document.text, rationale=document.rationale, vector=vector
    )
    if collection.settings.sums == "float16":
        return replace(side, rows=fitted(side.rows, side.weights, vector))
    return side


def _side(
    collection: Collection,
    segments: Sequence[Segment],
    sums: Floats,  # (S, H)
    *,
    text: str,
    rationale: Rationale | None,
    vector: Floats,
) -> Side:
    last = collection.settings.pooling == "last"
    sources = pooled_sources(collection.settings.pooling)
    kept = [len(segments) - 1] if last else [i for i, segment in enumerate(segments) if segment.source in sources]
    parts = tuple(
        Part(
            (segment := segments[i]).source,
            segment_text(segment, text=text, rationale=rationale),
            segment.start,
            segment.end,
            1 if last else segment.tokens,
        )
        for i in kept
    )
    # The last state is the vector itself: one row, which is all of it.
    return Side(parts, vector[None] if last else sums[kept], token_weights(parts), vector)


def _vectors(collection: Collection, labels: list[int]) -> dict[int, Floats]:
    wanted = np.array(labels, dtype=np.int64)
    kept, vectors = collection.store.read(lambda c: reading.vectors(c, wanted, dimensions=collection.dimensions))
    return dict(zip(kept.tolist(), vectors, strict=True))


class _Ranks:
    """Ranks of hits among themselves when something is left out; equal ones stay in the order they have.

    N hits, S segments of the query, D dimensions.
    """

    def __init__(self, query: Side, found: Sequence[Found], vectors: dict[int, Floats]) -> None:
        self._scores = np.array([hit.score for hit in found], dtype=np.float64)  # (N,)
        absent = np.full(len(query.vector), np.nan, dtype=np.float32)  # deleted just now: it outranks nobody
        hits = [vectors.get(hit.document.label, absent) for hit in found]
        rows = np.asarray(query.rows, dtype=np.float64)[:, : len(query.vector)]
        rest = unit(rows.sum(axis=0) - rows)  # (S, D)
        self._without_asked = rest @ np.stack(hits).T if hits else np.zeros((len(rest), 0))  # (S, N)

    def of_document(self, place: int, score: float | None) -> int | None:
        """Of the hit at `place`, if its own score were another."""
        return None if score is None else 1 + ahead(self._scores, place, score)

    def of_query(self, place: int, segment: int, score: float | None) -> int | None:
        """Of the hit at `place`, if a segment of the query were left out for all hits."""
        scores = self._without_asked[segment]
        return None if score is None else 1 + ahead(scores, place, float(scores[place]))


def _explain(
    collection: Collection,
    query: Side,
    document: Side,
    score: float,
    place: int,
    ranks: _Ranks | None,
    top_pairs: int,
    mean: Mean | None,
    grams: bool,
) -> Explanation:
    dimensions = collection.settings.dimensions
    found = take_apart(query, document, dimensions=dimensions, top_pairs=top_pairs, grams=grams)
    if collection.settings.metric == "dot":
        found = _scaled(found, float(np.linalg.norm(query.vector) * np.linalg.norm(document.vector)))
    asked = tuple(
        Piece(row, ranks.of_query(place, i, row.without) if ranks else None) for i, row in enumerate(found.first.rows)
    )
    written = tuple(Piece(row, ranks.of_document(place, row.without) if ranks else None) for row in found.second.rows)
    rank = place + 1 if ranks else None
    return Explanation(
        score=score,
        table=found.table,
        query=asked,
        document=written,
        query_sources=found.first.portions,
        document_sources=found.second.portions,
        pairs=found.pairs,
        rank=rank,
        largest_change=None if rank is None else _largest_change(rank, asked, written),
        centred=None if mean is None else centred_view(query, document, mean, dimensions=dimensions),
        query_gram=found.first.gram,
        document_gram=found.second.gram,
    )


def centred_view(first: Side, second: Side, mean: Mean, *, dimensions: int | None) -> Centred:
    """The score of two sides once the mean is subtracted from both."""
    rows = [side.less(mean.vector, dimensions=dimensions).rows for side in (first, second)]
    table = contributions(*rows)
    return Centred(float(table.sum()), table)


def _largest_change(rank: int, query: Sequence[Piece], document: Sequence[Piece]) -> Change | None:
    sides: tuple[tuple[Literal["query", "document"], Sequence[Piece]], ...] = (("document", document), ("query", query))
    moves = [
        Change(side, i, piece.rank_without)
        for side, pieces in sides
        for i, piece in enumerate(pieces)
        if piece.rank_without is not None and piece.rank_without != rank
    ]
    return max(moves, key=lambda move: abs(move.rank - rank), default=None)


def _scaled(found: Table, scale: float) -> Table:
    """Under metric `dot` the cells are those of the cosine times both lengths; what would be left has no length."""

    def margin(side: Margin) -> Margin:
        rows = tuple(replace(row, contribution=row.contribution * scale, without=None) for row in side.rows)
        portions = tuple(replace(portion, contribution=portion.contribution * scale) for portion in side.portions)
        return replace(side, rows=rows, portions=portions)

    return replace(
        found,
        table=found.table * scale,
        first=margin(found.first),
        second=margin(found.second),
        pairs=tuple(replace(pair, contribution=pair.contribution * scale) for pair in found.pairs),
    )
