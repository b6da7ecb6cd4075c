"""A search from question to hits: embed, find, fuse, fetch, explain."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grace.representation import Mode, Rationale
from grace_server.index.collection import Collection
from grace_server.index.document import Document
from grace_server.index.errors import InvalidValue
from grace_server.index.explanation import Explanation, Side, Unexplainable, explain
from grace_server.index.filters import Clause
from grace_server.index.fusion import fuse
from grace_server.index.model import Model, Represented
from grace_server.index.vector_index import Neighbours
from grace_server.index.vectors import Floats, checked

Method = Literal["dense", "lexical", "hybrid"]
FUSION_DEPTH = 200  # candidates of each list that hybrid search fuses
FUSION_WEIGHTS = (1.0, 1.0)  # dense, lexical; measured in docs/search.md


@dataclass(frozen=True, slots=True)
class Options:
    """How to search. Page p of size k is offset p * k."""

    k: int = 10
    offset: int = 0
    method: Method = "dense"
    mode: Mode | None = None  # of the query; None: as the collection says
    clause: Clause | None = None
    threshold: float | None = None  # hits below this score are left out
    explain: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One query: words, a vector, or both. `made` is what the model made of the words, where it was asked."""

    text: str | None
    vector: Floats | None
    made: Represented | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where one of the fused lists has a hit."""

    rank: int  # from 1
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found."""

    document: Document
    score: float
    dense: Place | None  # hybrid only
    lexical: Place | None
    explanation: Explanation | None
    not_explained: str | None  # why there is no explanation, where one was asked for


@dataclass(frozen=True, slots=True)
class Answer:
    """What one question found."""

    text: str | None
    rationale: Rationale | None
    exact: bool
    hits: tuple[Hit, ...]


async def ask(
    model: Model, collection: Collection, *, texts: Sequence[str | None], vectors: Sequence[object], options: Options
) -> list[Question]:
    """Give every query that needs one its vector.

    Raises:
        FingerprintMismatch: the collection was built by another model.
        InvalidValue: neither words nor vector, or words missing for a lexical search.
    """
    questions = []
    for text, given in zip(texts, vectors, strict=True):
        vector = made = None
        if text is None and (given is None or options.method != "dense"):
            raise InvalidValue(f"a {options.method} search needs query", param="query")
        if given is not None:
            normalize = collection.settings.metric == "cosine"
            vector = checked(given, dimensions=collection.dimensions, normalize=normalize, param="vector")
        elif text is not None and options.method != "lexical":
            model.check(collection)
            made = await model.embed(
                collection, text, role="query", mode=options.mode or collection.settings.query_mode
            )
            vector = made.vector
        questions.append(Question(text, vector, made))
    return questions


def find(collection: Collection, questions: Sequence[Question], options: Options) -> tuple[list[Answer], float]:
    """Answers, and how many milliseconds finding them took. Blocking: belongs on a search thread."""
    began = time.perf_counter()
    reach = options.offset + options.k
    depth = max(reach, FUSION_DEPTH) if options.method == "hybrid" else reach
    lists: list[dict[str, Neighbours]] = [{} for _ in questions]
    if options.method != "lexical":
        queries = np.stack([q.vector for q in questions if q.vector is not None])
        for found, neighbours in zip(lists, collection.dense(queries, depth, options.clause), strict=True):
            found["dense"] = neighbours
    if options.method != "dense":
        for found, question in zip(lists, questions, strict=True):
            found["lexical"] = collection.lexical(question.text or "", depth, options.clause)
    answers = [_answer(collection, q, found, options) for q, found in zip(questions, lists, strict=True)]
    return answers, (time.perf_counter() - began) * 1000


def _answer(collection: Collection, question: Question, lists: dict[str, Neighbours], options: Options) -> Answer:
    if len(lists) == 1:
        [ranked] = lists.values()
    else:
        ranked = fuse([lists["dense"], lists["lexical"]], weights=FUSION_WEIGHTS)
    documents = collection.documents(ranked.labels[: options.offset + options.k])
    # A document that was deleted since the index was asked is passed over.
    found = [
        (label, score)
        for label, score in zip(ranked.labels.tolist(), ranked.scores.tolist(), strict=True)
        if label in documents and (options.threshold is None or score >= options.threshold)
    ]
    places = {name: _places(neighbours) for name, neighbours in lists.items()} if len(lists) > 1 else {}
    hits = []
    for label, score in found[options.offset : options.offset + options.k]:
        dense, words = places.get("dense", {}).get(label), places.get("lexical", {}).get(label)
        explanation, why_not = None, None
        if options.explain:
            try:
                dense_score = score if options.method == "dense" else (dense.score if dense else None)
                explanation = _explain(collection, question, documents[label], dense_score)
            except Unexplainable as error:
                why_not = str(error)
        hits.append(Hit(documents[label], score, dense, words, explanation, why_not))
    rationale = question.made.representation.rationale if question.made else None
    return Answer(question.text, rationale, ranked.exact, tuple(hits))


def _places(neighbours: Neighbours) -> dict[int, Place]:
    pairs = zip(neighbours.labels.tolist(), neighbours.scores.tolist(), strict=True)
    return {label: Place(rank, score) for rank, (label, score) in enumerate(pairs, start=1)}


def _explain(collection: Collection, question: Question, document: Document, score: float | None) -> Explanation:
    """Take the dense part of a hit's score apart.

    Raises:
        Unexplainable: saying why.
    """
    if score is None:
        raise Unexplainable("a BM25 score is made of word counts, not of sentence vectors")
    if question.made is None:
        raise Unexplainable("the query was given as a vector, whose sentences are not known")
    if document.given == "vector":
        raise Unexplainable("the document was given as a vector, whose sentences are not known")
    if (stored := collection.sums(document.label)) is None:
        raise Unexplainable("this index keeps no sums (settings.sums is 'none')")
    settings, made = collection.settings, question.made
    scale = 1.0
    if settings.metric == "dot":
        labels = np.array([document.label], dtype=np.int64)
        scale = float(np.linalg.norm(made.vector) * np.linalg.norm(collection.vectors(labels)))
    return explain(
        Side(made.job.text, made.representation.rationale, made.representation.segments, made.representation.sums),
        Side(document.text, document.rationale, stored.segments, stored.sums),
        score=score,
        pooling=settings.pooling,
        dimensions=settings.dimensions,
        scale=scale,
    )
