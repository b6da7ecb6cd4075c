"""How an explanation looks on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from grace.pooling import Pooling
from grace.representation import Role, Source
from grace_server.attribution_table import MAX_GRAM_SEGMENTS, Margin, Pair
from grace_server.comparison import Compared
from grace_server.explaining import Against, Full
from grace_server.house import House
from grace_server.index.ranking import RANKED
from grace_server.routes.embed import EmbedUsage
from grace_server.routes.shapes import RationaleBody, embed_usage, rationale_body
from grace_server.tokens import Token


class PartBody(BaseModel):
    """A segment of a side: a sentence of the text or of the rationale, or the template between them."""

    source: Source
    text: str
    start: int = Field(description="in characters (code points) of the text or of the rationale")
    end: int
    tokens: int = Field(description="whose states were pooled")
    sample: int = Field(description="of which of n rationales it is; 0 for what they share")
    share: float = Field(description="of its own vector; those of a side add up to 1")
    contribution: float = Field(description="to the score; those of a side add up to it")
    without: float | None = Field(description="the score with its sum left out; null if nothing would be left")
    rank_without: int | None = Field(
        description=f"the rank in the index then; null beyond {RANKED}, and where not asked"
    )


class PortionBody(BaseModel):
    """What a source adds to the score."""

    source: Source
    contribution: float
    share: float | None = Field(description="of the score; null if that is 0")


class TokenBody(BaseModel):
    """A pooled token."""

    text: str = Field(description="empty where a character is still in the making")
    segment: int = Field(description="its place among the segments of its side")
    contribution: float


class SideBody(BaseModel):
    """One of the two, and what its vector is made of."""

    id: str | None = Field(description="of a document of the index")
    role: Role
    rationale: RationaleBody | None
    input_tokens: int
    truncated: bool
    cached: bool
    consistency: float | None
    segments: list[PartBody]
    sources: list[PortionBody]
    gram: list[list[float]] | None = Field(
        description=f"inner products of its segments, adding up to 1; null over {MAX_GRAM_SEGMENTS} segments"
    )
    tokens: list[TokenBody] | None = Field(description="on request; their contributions add up to the score")
    tokens_residual: float | None = Field(description="the score less their sum: what the second pass rounds otherwise")


class PairBody(BaseModel):
    """What a segment of the first and one of the second add to the score, by their places."""

    first: int
    second: int
    contribution: float


class ChangeBody(BaseModel):
    """The one sentence whose removal moves the document furthest in the index."""

    side: Literal["first", "second"]
    segment: int
    rank: int | None = Field(description=f"null: beyond {RANKED}")


class WithoutBody(BaseModel):
    """The score without the segments that were named."""

    score: float | None = Field(description="null if nothing would be left")
    rank: int | None


class MeanBody(BaseModel):
    """Which mean was subtracted: of all vectors of the index."""

    index: str
    documents: int
    seq: int = Field(description="the last change it knows of")
    length: float = Field(description="between 0 and 1: how much all vectors have in common")


class CentredBody(BaseModel):
    """The same with the mean subtracted from both vectors; rows and columns as in `table`."""

    mean: MeanBody
    score: float
    table: list[list[float]]
    first: list[float] = Field(description="contributions of the segments of `first`")
    second: list[float]


class AgainstBody(BaseModel):
    """The other document under the same first side: `gap` is the difference of the scores."""

    side: SideBody
    score: float
    table: list[list[float]]
    pairs: list[PairBody]
    gap: float = Field(description="`score` less the other's: all cells of `table` less all cells of the other table")
    by_first: list[float] = Field(description="what each segment of `first` adds to the gap")


class ExplainResponse(BaseModel):
    """A score and all it is made of. Exact arithmetic of the score, not a claim about causes."""

    object: Literal["explanation"]
    model: str
    fingerprint: str
    index: str | None
    pooling: Pooling
    score: float = Field(description="cosine of the two vectors")
    rank: int | None = Field(description=f"of the document for this query in the index; null beyond {RANKED}")
    ranks_exact: bool | None = Field(description="whether the index compared every vector for the ranks")
    largest_change: ChangeBody | None
    first: SideBody
    second: SideBody
    table: list[list[float]] = Field(description="a row per segment of `first`; all cells add up to the score")
    pairs: list[PairBody] = Field(description="the largest cells, largest first")
    without: WithoutBody | None
    centred: CentredBody | None
    against: AgainstBody | None
    usage: EmbedUsage


def content(
    house: House,
    pooling: Pooling,
    index: str | None,
    sides: Sequence[Compared],
    found: Full,
    tokens: tuple[list[Token], list[Token]] | None,
) -> dict[str, Any]:
    """`ExplainResponse`, as a dict."""
    table, ranks, change = found.table, found.ranks, found.largest_change
    none_of = ((None,) * len(table.first.rows), (None,) * len(table.second.rows))
    of_first, of_second = (ranks.without_query, ranks.without_document) if ranks else none_of
    return {
        "object": "explanation",
        "model": house.model_name,
        "fingerprint": house.checkpoint.fingerprint,
        "index": index,
        "pooling": pooling,
        "score": table.score,
        "rank": ranks.rank if ranks else None,
        "ranks_exact": ranks.exact if ranks else None,
        "largest_change": change and {"side": change.side, "segment": change.segment, "rank": change.rank},
        "first": _side(sides[0], table.first, of_first, tokens and tokens[0], table.score),
        "second": _side(sides[1], table.second, of_second, tokens and tokens[1], table.score),
        "table": table.table.tolist(),
        "pairs": _pairs(table.pairs),
        "without": found.without and {"score": found.without.score, "rank": found.without.rank},
        "centred": _centred(index, found),
        "against": found.against and _against(sides[2], found.against),
        "usage": embed_usage([side.embedded for side in sides if side.embedded is not None]),
    }


def _side(
    compared: Compared, margin: Margin, ranks: Sequence[int | None], tokens: Sequence[Token] | None, score: float
) -> dict[str, Any]:
    return {
        "id": compared.document and compared.document.id,
        "role": compared.role,
        "rationale": rationale_body(compared.rationale),
        "input_tokens": compared.input_tokens,
        "truncated": compared.truncated,
        "cached": compared.cached,
        "consistency": compared.consistency,
        "segments": [
            {
                "source": row.part.source,
                "text": row.part.text,
                "start": row.part.start,
                "end": row.part.end,
                "tokens": row.part.tokens,
                "sample": row.part.sample,
                "share": row.share,
                "contribution": row.contribution,
                "without": row.without,
                "rank_without": rank,
            }
            for row, rank in zip(margin.rows, ranks, strict=True)
        ],
        "sources": [{"source": p.source, "contribution": p.contribution, "share": p.share} for p in margin.portions],
        "gram": None if margin.gram is None else margin.gram.tolist(),
        "tokens": None
        if tokens is None
        else [{"text": t.text, "segment": t.segment, "contribution": t.contribution} for t in tokens],
        "tokens_residual": None if tokens is None else score - sum(token.contribution for token in tokens),
    }


def _pairs(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [{"first": p.first, "second": p.second, "contribution": p.contribution} for p in pairs]


def _centred(index: str | None, found: Full) -> dict[str, Any] | None:
    if found.centred is None or found.mean is None:
        return None
    mean, table = found.mean, found.centred.table
    return {
        "mean": {"index": index, "documents": mean.documents, "seq": mean.seq, "length": mean.length},
        "score": found.centred.score,
        "table": table.tolist(),
        "first": table.sum(axis=1).tolist(),
        "second": table.sum(axis=0).tolist(),
    }


def _against(compared: Compared, against: Against) -> dict[str, Any]:
    table = against.table
    return {
        "side": _side(compared, table.second, (None,) * len(table.second.rows), None, table.score),
        "score": table.score,
        "table": table.table.tolist(),
        "pairs": _pairs(table.pairs),
        "gap": against.gap,
        "by_first": against.by_first.tolist(),
    }
