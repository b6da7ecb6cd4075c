"""Scores taken apart. All of it is exact arithmetic of the score, not a claim about causes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from grace_client.answer import Pooling, Rationale, Result, Role, Source, Usage

Table = list[list[float]]


class Part(Result):
    """A segment of one of two texts, and what it adds to their score."""

    source: Source
    text: str
    start: int
    end: int
    tokens: int
    sample: int
    share: float
    contribution: float
    without: float | None
    rank_without: int | None = None  # in the index, then


class Portion(Result):
    """What a source adds to the score."""

    source: Source
    contribution: float
    share: float | None


class TokenPart(Result):
    """A token, and what it adds to the score."""

    text: str
    segment: int
    contribution: float


class Side(Result):
    """One of two texts, and what its vector is made of."""

    role: Role
    rationale: Rationale | None
    input_tokens: int
    truncated: bool
    cached: bool
    consistency: float | None
    segments: list[Part]
    sources: list[Portion]
    gram: list[list[float]] | None = Field(repr=False)
    id: str | None = None  # of a document of the index
    tokens: list[TokenPart] | None = None  # where asked for; they add up to the score
    tokens_residual: float | None = None


class Cell(Result):
    """What a segment of the first and one of the second text add to the score, by their places."""

    first: int
    second: int
    contribution: float


class Change(Result):
    """The one removal that moves the rank most."""

    side: Literal["first", "second"]
    segment: int
    rank: int | None


class Mean(Result):
    """The mean of an index's vectors, which the centred view takes off."""

    index: str
    documents: int
    seq: int
    length: float


class Centred(Result):
    """The score with the mean of the index subtracted from both vectors."""

    mean: Mean
    score: float
    table: Table = Field(repr=False)
    first: list[float]
    second: list[float]


class Against(Result):
    """Why one document scores higher than another: the difference of the two tables."""

    side: Side
    score: float
    table: Table = Field(repr=False)
    pairs: list[Cell]
    gap: float
    by_first: list[float]


class Without(Result):
    """Score and rank with chosen segments left out."""

    score: float | None
    rank: int | None


class Comparison(Result):
    """A score and all it is made of. Exact arithmetic of the score, not a claim about causes."""

    model: str
    fingerprint: str
    pooling: Pooling
    score: float
    first: Side
    second: Side
    table: list[list[float]] = Field(repr=False)  # a row per segment of `first`; all cells add up to the score
    pairs: list[Cell]  # the largest cells
    usage: Usage
    index: str | None = None
    rank: int | None = None  # of the document for this query, in the index
    ranks_exact: bool | None = None
    largest_change: Change | None = None
    without: Without | None = None
    centred: Centred | None = None
    against: Against | None = None


class Piece(Result):
    """A segment of a query or a document; offsets are into its text or its rationale."""

    source: Source
    text: str
    start: int
    end: int
    contribution: float
    without: float | None
    tokens: int | None = None
    share: float | None = None  # of its own vector
    rank_without: int | None = None  # among the hits of the answer, then


class Pair(Result):
    """What a segment of the query and one of the document add to the score, by their places."""

    query: int
    document: int
    contribution: float


class HitChange(Result):
    """The one removal that moves a hit most."""

    side: Literal["query", "document"]
    segment: int
    rank: int


class CentredHit(Result):
    """A hit's score with the mean of the index subtracted from both vectors."""

    score: float
    table: Table = Field(repr=False)


class Portions(Result):
    """What the sources of both sides add."""

    query: list[Portion]
    document: list[Portion]


class Explanation(Result):
    """The score of a hit, taken apart."""

    score: float
    query: list[Piece]
    document: list[Piece]
    pairs: list[Pair]  # the largest
    table: Table | None = Field(None, repr=False)  # a row per piece of `query`; all cells add up to the score
    sources: Portions | None = None
    rank: int | None = None
    largest_change: HitChange | None = None
    centred: CentredHit | None = None
    query_gram: Table | None = Field(None, repr=False)
    document_gram: Table | None = Field(None, repr=False)
