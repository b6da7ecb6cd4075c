"""A search from question to hits: embed, find, fuse, fetch, explain."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import numpy as np

from grace.representation import Mode, Rationale
from grace_server.index.collection import Collection
from grace_server.index.document import Document
from grace_server.index.errors import InvalidValue, TooLarge
from grace_server.index.explanation import Explanation, Found, explain
from grace_server.index.filters import Clause
from grace_server.index.fusion import depth_for, fuse_in_stages, share
from grace_server.index.mean import Mean
from grace_server.index.model import Model, Represented
from grace_server.index.settings import check_mode
from grace_server.index.vector_index import Neighbours
from grace_server.index.vectors import Floats, checked

Method = Literal["dense", "lexical", "hybrid"]
DENSE_WEIGHT = 0.5  # of the dense list, where the lexical one's is 1; measured in docs/search.md


@dataclass(frozen=True, slots=True)
class Options:
    """How to search. Page p of size k is offset p * k."""

    k: int = 10
    offset: int = 0
    method: Method = "dense"
    mode: Mode | None = None  # of the query; None: as the collection says
    clause: Clause | None = None
    threshold: float | None = None  # the first hit with a lower score, and those after it, are left out
    dense_weight: float = DENSE_WEIGHT  # in a hybrid search
    explain: bool = False
    centred: bool = False  # explain the scores with the collection's mean subtracted, too
    top_pairs: int = 10  # of each explanation
    grams: bool = False  # explanations with what the score without any set of sentences needs


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
    contribution: float  # to the fused score


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
    mean: Mean | None = None  # what centred explanations took off


async def ask(
    model: Model, collection: Collection, *, texts: Sequence[str | None], vectors: Sequence[object], options: Options
) -> list[Question]:
    """Give every query that needs one its vector.

    Raises:
        FingerprintMismatch: the collection was built by another model.
        TooLarge: a query, or all of them together, take more than the service holds.
        InvalidValue: neither words nor vector, words missing for a lexical search, or nothing to pool in this mode.
    """
    settings = collection.settings
    mode = options.mode or settings.query_mode
    ready: dict[int, Floats] = {}
    asked: dict[int, str] = {}  # texts whose vectors are the model's to make
    for place, (text, given) in enumerate(zip(texts, vectors, strict=True)):
        if text is not None:
            model.check_length(text, param="query")
        elif given is None or options.method != "dense":
            raise InvalidValue(f"a {options.method} search needs query", param="query")
        if given is not None:
            normalize = settings.metric == "cosine"
            ready[place] = checked(given, dimensions=collection.dimensions, normalize=normalize, param="vector")
        elif text is not None and options.method != "lexical":
            model.check(collection)
            check_mode(settings, mode, param="mode")
            asked[place] = text
    try:
        embedded = await model.embed_all(collection, list(asked.values()), role="query", mode=mode)
    except TooLarge as error:  # of texts by any name
        raise TooLarge(str(error), param="query") from None
    made = dict(zip(asked, embedded, strict=True))
    ready |= {place: one.vector for place, one in made.items()}
    return [Question(text, ready.get(place), made.get(place)) for place, text in enumerate(texts)]


def find(collection: Collection, questions: Sequence[Question], options: Options) -> tuple[list[Answer], float]:
    """Answers, and how many milliseconds finding them took. Blocking: belongs on a search thread."""
    began = time.perf_counter()
    reach = options.offset + options.k
    depth = depth_for(reach) if options.method == "hybrid" else reach
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
    reach, weights = options.offset + options.k, {"dense": options.dense_weight, "lexical": 1.0}
    depths: Mapping[int, int] = {}
    if len(lists) == 1:
        [ranked] = lists.values()
    else:
        fused = fuse_in_stages([lists[name] for name in weights], weights=list(weights.values()), reach=reach)
        ranked, depths = fused.neighbours, fused.depths
    pairs = zip(ranked.labels[:reach].tolist(), ranked.scores[:reach].tolist(), strict=True)
    least = -math.inf if options.threshold is None else options.threshold
    # The first below it is the end, also where scores rise again with the next stage of a hybrid search: what came
    # after would have another place on every page.
    found = list(takewhile(lambda pair: pair[1] >= least, pairs))
    # A document that was deleted since the index was asked is passed over, so those before the page are looked up, too.
    labels = np.array([label for label, _ in found], dtype=np.int64)
    documents = collection.documents_after(labels, options.offset)
    page = [(label, score) for label, score in found if label in documents]
    depths = {label: depths[label] for label, _ in page} if depths else {}
    dense, words = (_places(lists[name], weight, depths) if depths else {} for name, weight in weights.items())
    explained: list[Explanation | str] | None = None
    mean = None
    if options.explain:
        mean = collection.mean() if options.centred and collection.settings.metric == "cosine" else None
        scores = dict(page) if options.method == "dense" else {label: place.score for label, place in dense.items()}
        explained = explain(
            collection,
            question.made,
            [Found(documents[label], scores.get(label)) for label, _ in page],
            ranked=options.method == "dense",
            top_pairs=options.top_pairs,
            mean=mean,
            grams=options.grams,
        )
    hits = [
        Hit(documents[label], score, dense.get(label), words.get(label), *_told(explained[i] if explained else None))
        for i, (label, score) in enumerate(page)
    ]
    rationale = question.made.representation.rationale if question.made else None
    return Answer(question.text, rationale, ranked.exact, tuple(hits), mean)


def _told(explained: Explanation | str | None) -> tuple[Explanation | None, str | None]:
    return (None, explained) if isinstance(explained, str) else (explained, None)


def _places(neighbours: Neighbours, weight: float, depths: Mapping[int, int]) -> dict[int, Place]:
    """By label, of those places that went into the fused scores."""
    pairs = zip(neighbours.labels.tolist(), neighbours.scores.tolist(), strict=True)
    return {
        label: Place(rank, score, share(rank, weight))
        for rank, (label, score) in enumerate(pairs, start=1)
        if rank <= depths.get(label, 0)
    }
