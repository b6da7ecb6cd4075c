"""`POST /search`: by words, by vector, or by both."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from grace.representation import Mode
from grace_server.errors import problems
from grace_server.index.errors import InvalidValue
from grace_server.index.filters import compile_filter
from grace_server.index.routes.explanation import ExplanationOut, MeanOut, explanation_out, mean_out
from grace_server.index.routes.shapes import RationaleOut, Strict, indexes_of, rationale_out
from grace_server.index.searching import DENSE_WEIGHT, Answer, Hit, Method, Options, Place
from grace_server.metrics import Metrics
from grace_server.request_body import FIRST

router = APIRouter(tags=["search"])

MAX_K, MAX_REACH, MAX_QUERIES = 1_000, 10_000, 64
MAX_HITS, MAX_EXPLAINED = 16_000, 1_000  # of all queries of a request together
LARGE = 100  # hits: an answer of more, or with explanations, is not built on the event loop


class SearchIn(Strict):
    """A question to an index, or several at once."""

    index: str = "default"
    query: str | Annotated[list[str], FIRST] | None = None
    vector: Annotated[list[float], FIRST] | Annotated[list[Annotated[list[float], FIRST]], FIRST] | None = Field(
        None, description="instead of embedding the query"
    )
    k: Annotated[int, Field(ge=1, le=MAX_K)] = 10
    offset: Annotated[int, Field(ge=0, le=MAX_REACH - MAX_K)] = Field(0, description="hits to pass over, for paging")
    method: Method = "dense"
    mode: Mode | None = Field(None, description="of the query; null: as the index says")
    filter: dict[str, Any] | None = Field(None, description="on metadata; see docs/search.md")
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = Field(
        None, description="leave out hits with a lower score"
    )
    dense_weight: Annotated[float, Field(ge=0, le=100)] | None = Field(
        None, description="of the dense list in a hybrid search, where the lexical one's is 1; null: as measured best"
    )
    explain: bool = Field(False, description="take the score of every hit apart")
    centred: bool = Field(False, description="beside it, subtract the index's mean from both vectors; needs `explain`")
    top_pairs: Annotated[int, Field(ge=0, le=1000)] = Field(10, description="pairs listed in each explanation")
    grams: bool = Field(False, description="with explanations, what the score without any set of sentences needs")


class QueryOut(BaseModel):
    """The question as it was understood."""

    text: str | None
    rationale: RationaleOut | None


class PlaceOut(BaseModel):
    """Rank and score of a hit in one of the lists that a hybrid search fuses."""

    rank: int
    score: float
    contribution: float = Field(description="to the fused score, which is the sum of both lists'")


class HitOut(BaseModel):
    """A document found."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]
    rationale: RationaleOut | None
    dense: PlaceOut | None = Field(description="hybrid only")
    lexical: PlaceOut | None = Field(description="hybrid only")
    explanation: ExplanationOut | None
    not_explained: str | None = Field(description="why there is no explanation, where one was asked for")


class TimingOut(BaseModel):
    """Milliseconds."""

    embed: float
    search: float


class SearchOut(BaseModel):
    """What one question found."""

    query: QueryOut
    exact: bool = Field(description="true only if no other document could belong here")
    timing_ms: TimingOut
    hits: list[HitOut]
    mean: MeanOut | None = Field(None, description="what centred explanations took off")


class SearchesOut(BaseModel):
    """What several questions found, in their order."""

    results: list[SearchOut]


@router.post("/search", response_model=SearchOut | SearchesOut, responses=problems(404, 409, 429))
async def search(request: Request, body: SearchIn) -> Response:
    """The documents nearest to a query. A list of queries or vectors is answered with `results`, one for each."""
    texts, vectors, several = _questions(body)
    _check_size(body, len(texts))
    options = Options(
        k=body.k,
        offset=body.offset,
        method=body.method,
        mode=body.mode,
        clause=None if body.filter is None else compile_filter(body.filter),
        threshold=body.threshold,
        dense_weight=DENSE_WEIGHT if body.dense_weight is None else body.dense_weight,
        explain=body.explain,
        centred=body.centred,
        top_pairs=body.top_pairs,
        grams=body.grams,
    )
    answers, embed_ms, search_ms = await indexes_of(request).search(
        body.index, texts=texts, vectors=vectors, options=options
    )
    metrics: Metrics = request.app.state.metrics
    metrics.search_seconds.labels(body.method).observe(search_ms / 1000)
    if body.method != "lexical" and body.vector is None:
        metrics.query_seconds.observe(embed_ms / 1000)
    timing = TimingOut(embed=round(embed_ms, 3), search=round(search_ms, 3))

    def content() -> bytes:
        results = [_answer(body.index, answer, timing) for answer in answers]
        return (SearchesOut(results=results) if several else results[0]).model_dump_json().encode()

    large = body.explain or sum(len(answer.hits) for answer in answers) > LARGE
    made = await asyncio.to_thread(content) if large else content()
    return Response(made, media_type="application/json")


def _check_size(body: SearchIn, queries: int) -> None:
    if queries * (body.offset + body.k) > MAX_HITS:
        raise InvalidValue(
            f"k and offset: {queries} queries may ask for {MAX_HITS} hits together, those passed over counted, not "
            f"{queries * (body.offset + body.k)}",
            param="k",
        )
    if body.explain and queries * body.k > MAX_EXPLAINED:
        raise InvalidValue(
            f"k: with explain, {queries} queries may ask for {MAX_EXPLAINED} hits together, not {queries * body.k}",
            param="k",
        )


def _questions(body: SearchIn) -> tuple[list[str | None], list[object], bool]:
    """Words and vectors of each question, and whether several were asked."""
    texts: list[str | None] = list(body.query) if isinstance(body.query, list) else [body.query]
    nested = body.vector is not None and bool(body.vector) and isinstance(body.vector[0], list)
    vectors: list[object] = list(body.vector) if nested and body.vector is not None else [body.vector]
    several = isinstance(body.query, list) or nested
    if body.query is None:
        texts = [None] * len(vectors)
    if body.vector is None:
        vectors = [None] * len(texts)
    if len(texts) != len(vectors):
        raise InvalidValue(f"{len(texts)} queries but {len(vectors)} vectors", param="vector")
    if not 1 <= len(texts) <= MAX_QUERIES:
        raise InvalidValue(f"1..{MAX_QUERIES} queries at once, not {len(texts)}", param="query")
    return texts, vectors, several


def _answer(index: str, answer: Answer, timing: TimingOut) -> SearchOut:
    return SearchOut(
        query=QueryOut(text=answer.text, rationale=rationale_out(answer.rationale)),
        exact=answer.exact,
        timing_ms=timing,
        hits=[_hit(hit) for hit in answer.hits],
        mean=None if answer.mean is None else mean_out(index, answer.mean),
    )


def _hit(hit: Hit) -> HitOut:
    return HitOut(
        id=hit.document.id,
        score=hit.score,
        text=hit.document.text,
        metadata=hit.document.metadata,
        rationale=rationale_out(hit.document.rationale),
        dense=_place(hit.dense),
        lexical=_place(hit.lexical),
        explanation=None if hit.explanation is None else explanation_out(hit.explanation),
        not_explained=hit.not_explained,
    )


def _place(place: Place | None) -> PlaceOut | None:
    return None if place is None else PlaceOut(rank=place.rank, score=place.score, contribution=place.contribution)
