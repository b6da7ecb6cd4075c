"""Whether explanations point at what matters: sentences are taken out of texts, and the model is asked again.

A contribution is arithmetic of one pass. It is faithful, in the usual sense, if taking out the sentences with the
largest contributions moves the similarity more than taking out others does: the model reads the rest anew and writes
another rationale. Held against it are orders that know nothing of the query: by chance, and by length, since a long
sentence has a large sum whatever it says.

N cases (a query and a document relevant to it), F shares of sentences, S sentences of a document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from grace.attribution import contributions
from grace.pooling import pooled_sources, unit
from grace.representation import Representation, Role
from grace_training.evaluation.judged import Judged, ndcg
from grace_training.evaluation.report_resample import Interval, interval

Doubles = NDArray[np.float64]
Order = Literal["attribution", "attribution per token", "length", "random"]
Kind = Literal["deletion", "insertion"]
# (texts, role, given rationales or None) -> representations, in their order
Represent = Callable[[Sequence[str], Role, Sequence[str] | None], Sequence[Representation]]

ORDERS: tuple[Order, ...] = ("attribution", "attribution per token", "length", "random")
SHARES = (0.2, 0.4, 0.6, 0.8)
DRAWS = 2  # random orders per case, whose curves are averaged
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Case:
    """A document cut into its sentences, and the query it is relevant to."""

    query: str
    sentences: tuple[str, ...]
    contributions: Doubles  # (S,) of the sentences to the cosine with the query
    tokens: Doubles  # (S,)
    score: float


@dataclass(frozen=True, slots=True)
class Curve:
    """Cosines to the query while sentences go or come."""

    kind: Kind
    order: Order
    values: Doubles  # (N, F)


def cases(judged: Judged, represent: Represent, *, most: int, least_sentences: int = 5) -> list[Case]:
    """One case per query: the best-judged document that has enough sentences, taken apart as `/explain` does."""
    chosen: list[tuple[str, str]] = []
    for query, grades in judged.relevant.items():
        for document in sorted(grades, key=lambda d: (-grades[d], d)):
            if judged.corpus[document].count(". ") + 1 >= least_sentences:
                chosen.append((judged.queries[query], judged.corpus[document]))
                break
    chosen = chosen[: 2 * most]  # some turn out to have fewer segments than full stops
    asked = represent([query for query, _ in chosen], "query", None)
    found = represent([document for _, document in chosen], "document", None)
    made = [_case(query, document, q, d) for (query, document), q, d in zip(chosen, asked, found, strict=True)]
    return [case for case in made if len(case.sentences) >= least_sentences][:most]


def _case(query: str, document: str, asked: Representation, found: Representation) -> Case:
    table = contributions(asked.sums, found.sums)
    kept = [i for i, segment in enumerate(found.segments) if segment.source == "input"]
    spans = [found.segments[i] for i in kept]
    return Case(
        query,
        tuple(document[span.start : span.end] for span in spans),
        table.sum(axis=0)[kept],
        np.array([span.tokens for span in spans], dtype=np.float64),
        float(table.sum()),
    )


def ranked(case: Case, order: Order, rng: np.random.Generator) -> NDArray[np.int64]:
    """(S,) places of the sentences, the first to go (or to come) first."""
    match order:
        case "attribution":
            by = case.contributions
        case "attribution per token":
            by = case.contributions / case.tokens
        case "length":
            by = case.tokens
        case "random":
            by = rng.random(len(case.sentences))
    return np.argsort(-by, kind="stable")


def curves(found: Sequence[Case], represent: Represent, *, seed: int = 0) -> list[Curve]:
    """Deletion and insertion curves of every order. The model reads every text that is left, and writes about it."""
    rng = np.random.default_rng(seed)
    texts: dict[str, int] = {}  # each text once, however many orders come to it
    plans: list[tuple[Kind, Order, list[list[list[int]]]]] = []  # (N, draws, F) places in texts
    for order in ORDERS:
        orders = [[ranked(case, order, rng) for _ in range(DRAWS if order == "random" else 1)] for case in found]
        for kind in ("deletion", "insertion"):
            plan = [
                [[texts.setdefault(text, len(texts)) for text in _left(case, kind, one)] for one in own]
                for case, own in zip(found, orders, strict=True)
            ]
            plans.append((kind, order, plan))
    vectors = unit(_vectors(represent(list(texts), "document", None)))
    asked = unit(_vectors(represent([case.query for case in found], "query", None)))
    return [
        Curve(
            kind,
            order,
            np.array([np.mean(vectors[own] @ query, axis=0) for own, query in zip(plan, asked, strict=True)]),
        )
        for kind, order, plan in plans
    ]


def _left(case: Case, kind: Kind, order: NDArray[np.int64]) -> list[str]:
    """The document at each of SHARES: without the first sentences of an order, or with these alone, as they stood."""
    texts = []
    for share in SHARES:
        count = min(max(1, round(share * len(order))), len(order) - 1)
        kept = order[count:] if kind == "deletion" else order[:count]
        texts.append("".join(case.sentences[i] for i in sorted(kept.tolist())).strip())
    return texts


@dataclass(frozen=True, slots=True)
class Difference:
    """Between two mean values over cases, with its interval."""

    mean: float
    interval: Interval


def area_difference(one: Curve, other: Curve) -> Difference:
    """By how much the mean height of a curve is above another's, over the same cases."""
    return difference(one.values.mean(axis=1), other.values.mean(axis=1))


def difference(one: Doubles, other: Doubles) -> Difference:
    """The mean of paired differences (N,), with its bootstrap interval."""
    return Difference(float((one - other).mean()), mean_interval(one - other))


def mean_interval(values: Doubles) -> Interval:
    """The 95 % bootstrap interval of a mean over (N,) items."""
    rng = np.random.default_rng(len(values))
    drawn = rng.integers(0, len(values), (RESAMPLES, len(values)))
    return interval(values[drawn].mean(axis=1))


@dataclass(frozen=True, slots=True)
class Carried:
    """nDCG@10 of each query (Q,), by what the vectors were made of."""

    mean: Doubles  # text, template and rationale, as served
    input: Doubles  # the text alone, of the same pass
    rationale: Doubles  # the rationale alone
    shuffled: Doubles  # the text with the rationale of another text, on both sides


def carried(judged: Judged, represent: Represent, *, seed: int = 0) -> Carried:
    """How much of retrieval quality the rationale carries: without it, alone, and with somebody else's."""
    rng = np.random.default_rng(seed)
    made = [represent(list(side.values()), role, None) for side, role in _sides(judged)]
    foreign = []
    for (side, role), own in zip(_sides(judged), made, strict=True):
        written = [each.rationale.text if each.rationale else "" for each in own]
        foreign.append(represent(list(side.values()), role, [written[i] for i in derangement(len(written), rng)]))
    gains = _gains(judged)

    def quality(sides: Sequence[Sequence[Representation]], pooling: str) -> Doubles:
        queries, documents = (unit(_vectors(side, pooling)) for side in sides)
        order = np.argsort(-(queries @ documents.T), axis=1, kind="stable")
        return np.array([ndcg(ranking, own) for ranking, own in zip(order, gains, strict=True)])

    return Carried(quality(made, "mean"), quality(made, "input"), quality(made, "rationale"), quality(foreign, "mean"))


def derangement(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(N,) a permutation that leaves nothing in its place (of one item: itself): a shuffled cycle."""
    order = rng.permutation(count)
    found = np.empty(count, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found


def _sides(judged: Judged) -> tuple[tuple[dict[str, str], Role], tuple[dict[str, str], Role]]:
    return (judged.queries, "query"), (judged.corpus, "document")


def _gains(judged: Judged) -> Doubles:
    places = {document: i for i, document in enumerate(judged.corpus)}
    gains = np.zeros((len(judged.queries), len(places)))
    for row, query in zip(gains, judged.queries, strict=True):
        for document, grade in judged.relevant[query].items():
            row[places[document]] = grade
    return gains


def _vectors(made: Sequence[Representation], pooling: str = "mean") -> Doubles:
    """(N, H) sums of the pooled segments; a text without any takes all of its segments."""
    rows = []
    for each in made:
        kept = [i for i, s in enumerate(each.segments) if s.source in pooled_sources(pooling)]  # type: ignore[arg-type]
        rows.append((each.sums[kept] if kept else each.sums).sum(axis=0, dtype=np.float64))
    return np.stack(rows)
