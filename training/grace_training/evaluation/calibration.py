"""Whether the agreement of several rationales tells when a search will be right.

n rationales are sampled for a query; `consistency` is the mean pairwise cosine of their vectors, as the API gives it. A
signal deserves the name confidence if it ranks right results above wrong ones (AUROC above one half) and if, fitted on
other queries, it says how often they are right (a small calibration error, and a Brier score that is below that of
always saying the base rate by more than chance). Two signals that cost no second rationale are held beside it.

Q queries, N documents, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grace.pooling import combine, unit
from grace.representation import Representation, Role
from grace_training.evaluation.faithfulness import mean_interval
from grace_training.evaluation.judged import Judged
from grace_training.evaluation.report_resample import Interval, interval

Doubles = NDArray[np.float64]
FOLDS, BINS, RESAMPLES = 5, 5, 2000
LARGEST_ERROR = 0.1  # of calibration, up to which a signal may be called confidence

# (texts, role, temperature) -> representations, in their order
Sample = Callable[[Sequence[str], Role, float], Sequence[Representation]]


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of each query before, and after, it is answered."""

    signals: Mapping[str, Doubles]  # (Q,) by name; larger is meant to be better
    right: NDArray[np.bool_]  # (Q,) whether the first hit is relevant


@dataclass(frozen=True, slots=True)
class Bin:
    """Queries with neighbouring predictions."""

    low: float
    high: float
    predicted: float  # mean
    observed: float  # share that was right
    interval: Interval  # of that share
    count: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """How good a signal is."""

    auroc: float
    auroc_interval: Interval
    error: float  # expected calibration error of out-of-fold predictions
    brier: float
    base_brier: float  # of always saying the base rate of the other folds
    gain: Interval  # of the base rate's Brier score less its own
    bins: tuple[Bin, ...]

    @property
    def is_confidence(self) -> bool:
        """Whether it discriminates, and its predictions hold."""
        return self.auroc_interval.low > 0.5 and self.error <= LARGEST_ERROR and self.gain.low > 0


def observe(judged: Judged, sample: Sample, *, rationales: int, temperature: float) -> Observed:
    """Search with the mean vector of n sampled rationales per query, documents with greedy ones, and look."""
    documents = unit(_vectors(sample(list(judged.corpus.values()), "document", 0.0)))
    texts = [text for text in judged.queries.values() for _ in range(rationales)]
    sampled = _vectors(sample(texts, "query", temperature)).reshape(len(judged.queries), rationales, -1)
    queries, consistency = [], []
    for own in sampled:
        vector, agreement = combine([unit(each).astype(np.float32) for each in own])
        queries.append(vector.astype(np.float64))
        consistency.append(agreement)
    scores = np.stack(queries) @ documents.T  # (Q, N)
    ids = list(judged.corpus)
    order = np.argsort(-scores, axis=1, kind="stable")
    right = [ids[row[0]] in judged.relevant[query] for query, row in zip(judged.queries, order, strict=True)]
    best = np.take_along_axis(scores, order[:, :2], axis=1)
    return Observed(
        {
            "consistency": np.array(consistency),
            "cosine of the first hit": best[:, 0],
            "lead of the first hit": best[:, 0] - best[:, 1],
        },
        np.array(right),
    )


def calibrate(signal: Doubles, right: NDArray[np.bool_], *, seed: int = 0) -> Calibration:
    """Judge a signal (Q,) by outcomes (Q,): predictions come from a logistic curve fitted on the other folds.

    Raises:
        ValueError: all outcomes are the same, so there is nothing to tell apart.
    """
    if right.all() or not right.any():
        raise ValueError("every first hit is right, or every one is wrong: nothing can be told apart")
    rng = np.random.default_rng(seed)
    predicted, base = _out_of_fold(signal, right, rng)
    bins = reliability(predicted, right)
    return Calibration(
        auroc(signal, right),
        _auroc_interval(signal, right, rng),
        calibration_error(bins),
        float(np.mean(np.square(predicted - right))),
        float(np.mean(np.square(base - right))),
        mean_interval(np.square(base - right) - np.square(predicted - right)),
        bins,
    )


def auroc(signal: Doubles, right: NDArray[np.bool_]) -> float:
    """The chance that a right one has a larger signal than a wrong one; equal ones count half."""
    above = signal[right][:, None] - signal[~right][None, :]
    return float(np.mean((above > 0) + 0.5 * (above == 0)))


def reliability(predicted: Doubles, right: NDArray[np.bool_], *, bins: int = BINS) -> tuple[Bin, ...]:
    """Bins of about equally many queries, in the order of their predictions."""
    order = np.argsort(predicted, kind="stable")
    return tuple(
        Bin(
            float(predicted[part].min()),
            float(predicted[part].max()),
            float(predicted[part].mean()),
            float(right[part].mean()),
            mean_interval(right[part].astype(np.float64)),
            len(part),
        )
        for part in np.array_split(order, min(bins, len(order)))
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean distance of prediction and outcome, weighted by the bins' sizes."""
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.predicted - each.observed) for each in bins) / total


def _out_of_fold(signal: Doubles, right: NDArray[np.bool_], rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    from sklearn.linear_model import LogisticRegression

    folds = np.array_split(rng.permutation(len(signal)), min(FOLDS, len(signal)))
    predicted, base = np.empty(len(signal)), np.empty(len(signal))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(signal)), fold)
        base[fold] = right[rest].mean()
        if right[rest].all() or not right[rest].any():
            predicted[fold] = base[fold]
            continue
        # Cosines lie close together: without a common scale the penalty would hold the curve flat.
        centre, scale = signal[rest].mean(), signal[rest].std() or 1.0
        model = LogisticRegression().fit(((signal[rest] - centre) / scale)[:, None], right[rest])
        predicted[fold] = model.predict_proba(((signal[fold] - centre) / scale)[:, None])[:, 1]
    return predicted, base


def _auroc_interval(signal: Doubles, right: NDArray[np.bool_], rng: np.random.Generator) -> Interval:
    drawn = []
    for _ in range(RESAMPLES):
        some = rng.integers(0, len(signal), len(signal))
        if 0 < right[some].sum() < len(some):
            drawn.append(auroc(signal[some], right[some]))
    return interval(np.array(drawn))


def _vectors(made: Sequence[Representation]) -> Doubles:
    return np.stack([each.vector("mean", normalize=False) for each in made]).astype(np.float64)
