"""How the explanation of a hit looks on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from grace.representation import Source
from grace_server.attribution_table import MAX_GRAM_SEGMENTS, Portion
from grace_server.index.explanation import Change, Explanation, Piece
from grace_server.index.mean import Mean


class PieceOut(BaseModel):
    """A segment of the query or the document; offsets are into its text or its rationale."""

    source: Source
    text: str
    start: int
    end: int
    tokens: int
    share: float = Field(description="of its own vector; those of a side add up to 1")
    contribution: float = Field(description="to the score: the sum of its pairs")
    without: float | None = Field(
        description="the score with its sum left out; null if nothing would be left, and under metric `dot`"
    )
    rank_without: int | None = Field(
        description="among the hits of this answer, with its sum left out; dense search with metric `cosine` only"
    )


class PairOut(BaseModel):
    """What a segment of the query and one of the document add to the score, by their places in the lists."""

    query: int
    document: int
    contribution: float


class PortionOut(BaseModel):
    """What a source adds to the score."""

    source: Source
    contribution: float
    share: float | None = Field(description="of the score; null if that is 0")


class PortionsOut(BaseModel):
    """What text, template and rationale of either side add; each side's add up to the score."""

    query: list[PortionOut]
    document: list[PortionOut]


class ChangeOut(BaseModel):
    """The one sentence whose removal moves the hit furthest among the hits."""

    side: Literal["query", "document"]
    segment: int
    rank: int = Field(description="that the hit would have")


class CentredOut(BaseModel):
    """The same with the collection's mean subtracted from both vectors; rows and columns as in the raw table."""

    score: float
    table: list[list[float]]


class MeanOut(BaseModel):
    """Which mean centred tables took off: of all vectors of the index."""

    index: str
    documents: int
    seq: int = Field(description="the last change it knows of")
    length: float = Field(description="between 0 and 1: how much all vectors have in common")


class ExplanationOut(BaseModel):
    """A score and all it is made of. Exact arithmetic of the score, not a claim about causes."""

    score: float = Field(description="of dense search; in a hybrid one the dense part")
    table: list[list[float]] = Field(description="a row per segment of `query`; all cells add up to the score")
    query: list[PieceOut]
    document: list[PieceOut]
    sources: PortionsOut
    pairs: list[PairOut] = Field(description="the largest cells, largest first")
    rank: int | None = Field(description="among the hits of this answer, from 1")
    largest_change: ChangeOut | None = Field(description="null if no single removal moves it")
    centred: CentredOut | None = Field(description="where `centred` was asked for and the metric is `cosine`")
    query_gram: list[list[float]] | None = Field(
        description="where `grams` was asked for: inner products of the side's segments, adding up to 1; null over "
        f"{MAX_GRAM_SEGMENTS} segments"
    )
    document_gram: list[list[float]] | None


def explanation_out(found: Explanation) -> ExplanationOut:
    """An explanation on the wire."""
    return ExplanationOut(
        score=found.score,
        table=found.table.tolist(),
        query=[_piece(piece) for piece in found.query],
        document=[_piece(piece) for piece in found.document],
        sources=PortionsOut(
            query=[_portion(portion) for portion in found.query_sources],
            document=[_portion(portion) for portion in found.document_sources],
        ),
        pairs=[PairOut(query=p.first, document=p.second, contribution=p.contribution) for p in found.pairs],
        rank=found.rank,
        largest_change=None if found.largest_change is None else _change(found.largest_change),
        centred=None
        if found.centred is None
        else CentredOut(score=found.centred.score, table=found.centred.table.tolist()),
        query_gram=None if found.query_gram is None else found.query_gram.tolist(),
        document_gram=None if found.document_gram is None else found.document_gram.tolist(),
    )


def mean_out(index: str, mean: Mean) -> MeanOut:
    """A mean on the wire: what it is of, and how long it is."""
    return MeanOut(index=index, documents=mean.documents, seq=mean.seq, length=mean.length)


def _piece(piece: Piece) -> PieceOut:
    row, part = piece.row, piece.row.part
    return PieceOut(
        source=part.source,
        text=part.text,
        start=part.start,
        end=part.end,
        tokens=part.tokens,
        share=row.share,
        contribution=row.contribution,
        without=row.without,
        rank_without=piece.rank_without,
    )


def _portion(portion: Portion) -> PortionOut:
    return PortionOut(source=portion.source, contribution=portion.contribution, share=portion.share)


def _change(change: Change) -> ChangeOut:
    return ChangeOut(side=change.side, segment=change.segment, rank=change.rank)
