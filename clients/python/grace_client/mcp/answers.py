"""What the tools answer: words first, numbers where they decide something, no vectors unless asked for."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from grace_client import results
from grace_client.explanations import Comparison, Part, Piece


class Reason(BaseModel):
    """Two sentences, and what they add to a score together."""

    query: str
    document: str
    contribution: float


class FoundDocument(BaseModel):
    """A document, why the model thinks what it thinks of it, and which sentences made the score."""

    id: str
    score: float
    text: str
    truncated: bool = Field(description="whether the text was cut to `max_chars`")
    metadata: dict[str, Any]
    rationale: str | None = Field(description="what the model wrote about the document when it was indexed")
    reasons: list[Reason] = Field(description="the pairs of sentences that add most to the score")
    no_reasons: str | None = Field(description="why there are none")


class SearchAnswer(BaseModel):
    """What a search found."""

    query_rationale: str | None = Field(description="how the model read the query")
    exact: bool = Field(description="true only if no other document could belong here")
    hits: list[FoundDocument]


class EmbeddedText(BaseModel):
    """A text as the model read it."""

    rationale: str | None
    truncated: bool = Field(description="whether the text was over the model's limit and was cut")
    vector: list[float] | None = Field(description="null unless asked for")


class EmbedAnswer(BaseModel):
    """Texts as the model read them."""

    model: str
    dimensions: int
    texts: list[EmbeddedText]
    similarities: list[list[float]] = Field(description="cosines of each text with each other")


class ExplainAnswer(BaseModel):
    """A score and what it is made of. Exact arithmetic of the score, not a claim about causes."""

    score: float
    reasons: list[Reason] = Field(description="the pairs of sentences that add most to the score")
    first_rationale: str | None
    second_rationale: str | None
    from_sources: dict[str, float] = Field(description="what text, template and rationale of the second add")


class AddAnswer(BaseModel):
    """What became of documents."""

    ids: list[str]
    unchanged: int = Field(description="were there already with the same contents")
    failed: dict[str, str] = Field(description="id and reason of those that could not be embedded")


def hit(found: results.Hit, *, reasons: int, max_chars: int) -> FoundDocument:
    """A hit in words."""
    pairs = []
    if found.explanation:
        best = sorted(found.explanation.pairs, key=lambda pair: -pair.contribution)[:reasons]
        pairs = [
            Reason(
                query=_words(found.explanation.query[pair.query]),
                document=_words(found.explanation.document[pair.document]),
                contribution=round(pair.contribution, 4),
            )
            for pair in best
        ]
    return FoundDocument(
        id=found.id,
        score=round(found.score, 4),
        text=found.text[:max_chars],
        truncated=len(found.text) > max_chars,
        metadata=found.metadata,
        rationale=found.rationale.text if found.rationale else None,
        reasons=pairs,
        no_reasons=found.not_explained,
    )


def comparison(made: Comparison) -> ExplainAnswer:
    """A comparison in words."""
    return ExplainAnswer(
        score=round(made.score, 4),
        reasons=[
            Reason(
                query=_words(made.first.segments[cell.first]),
                document=_words(made.second.segments[cell.second]),
                contribution=round(cell.contribution, 4),
            )
            for cell in made.pairs
        ],
        first_rationale=made.first.rationale.text if made.first.rationale else None,
        second_rationale=made.second.rationale.text if made.second.rationale else None,
        from_sources={portion.source: round(portion.contribution, 4) for portion in made.second.sources},
    )


def _words(piece: Piece | Part) -> str:
    return piece.text.strip() if piece.source == "input" else f"({piece.source}) {piece.text.strip()}".strip()
