"""Statistics and intervals, held to SciPy and scikit-learn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, spearmanr
from sklearn.metrics import average_precision_score, v_measure_score

from grace_training.evaluation.report_entries import Entry, difference, entries, mean
from grace_training.evaluation.report_resample import Interval, draws, interval, over_seeds, score
from grace_training.evaluation.report_statistics import statistic
from grace_training.evaluation.results import Group, Items, Kind, RepresentationName, Run, TaskRecord

counts = st.lists(st.integers(0, 3), min_size=8, max_size=30).filter(lambda drawn: sum(drawn) > 3)


def group(kind: Kind, values: Any = (), gold: Any = (), **predicted: Any) -> Group:
    columns = {name: tuple(map(float, column)) for name, column in predicted.items()}
    return Group("default", kind, values=tuple(map(float, values)), gold=tuple(map(float, gold)), predicted=columns)


def weighted(made: Group, drawn: list[int]) -> float:
    return float(statistic(made, np.asarray([drawn], dtype=float))[0])


@given(counts, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_each_statistic_is_the_librarys_over_the_drawn_items(drawn: list[int], random: Any) -> None:
    many = len(drawn)
    # Few distinct values, so that ties occur.
    one, two = ([random.randrange(5) / 2 for _ in drawn] for _ in range(2))
    labels = [float(random.random() < 0.5) for _ in range(many)]
    classes, clusters = ([random.randrange(3) for _ in range(many)] for _ in range(2))
    again = [i for i, count in enumerate(drawn) for _ in range(count)]

    assert weighted(group("mean", one), drawn) == pytest.approx(np.mean([one[i] for i in again]))
    nats, tokens = [x + 1 for x in one], [x + 2 for x in two]
    expected = math.exp(sum(nats[i] for i in again) / sum(tokens[i] for i in again))
    assert weighted(group("perplexity", nats=nats, tokens=tokens), drawn) == pytest.approx(expected)

    a, b = [one[i] for i in again], [two[i] for i in again]
    found = weighted(group("spearman", gold=two, cosine=one), drawn)
    if len(set(a)) > 1 and len(set(b)) > 1:
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)
    else:
        assert math.isnan(found)

    gold = [labels[i] for i in again]
    found = weighted(group("max_ap", gold=labels, up=one, down=[-x for x in one]), drawn)
    if any(gold):
        both = [average_precision_score(gold, x) for x in (a, [-x for x in a])]
        assert found == pytest.approx(max(both), abs=1e-9)
    else:
        assert math.isnan(found)

    found = weighted(group("v_measure", gold=classes, cluster=clusters), drawn)
    expected = v_measure_score([classes[i] for i in again], [clusters[i] for i in again])
    assert found == pytest.approx(expected, abs=1e-9)


def items(values: np.ndarray[Any, Any], *, ids: tuple[str, ...] = ()) -> Items:
    return Items("task", "metric", (Group("default", "mean", ids=ids, values=tuple(map(float, values))),))


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(0).exponential(1.0, 150)
    ours = interval(draws(items(values), 8000))
    theirs = bootstrap((values,), np.mean, n_resamples=8000, method="percentile", random_state=1).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_interval_of_a_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(2)
    gold = rng.normal(size=120)
    cosine = gold + rng.normal(size=120)
    made = Items("task", "metric", (group("spearman", gold=gold, cosine=cosine),))
    ours = interval(draws(made, 6000))
    theirs = bootstrap(
        (cosine, gold), lambda x, y: spearmanr(x, y).statistic, paired=True, vectorized=False, n_resamples=3000,
        method="percentile", random_state=1,
    ).confidence_interval  # fmt: skip
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_the_interval_of_a_difference_is_scipys_over_pairs() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(0.5, 0.2, 200)
    b = a - 0.02 + rng.normal(0, 0.03, 200)
    ours = interval(draws(items(a), 8000) - draws(items(b), 8000))
    theirs = bootstrap((a - b,), np.mean, n_resamples=8000, method="percentile", random_state=1).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.001)
    assert ours.excludes_zero


def test_items_are_paired_by_id_whatever_their_order() -> None:
    values = np.random.default_rng(4).normal(size=50)
    ids = tuple(f"q{i}" for i in range(50))
    turned = items(values[::-1], ids=ids[::-1])
    assert draws(items(values, ids=ids), 100) == pytest.approx(draws(turned, 100))


def test_other_items_are_drawn_independently() -> None:
    values = np.random.default_rng(5).normal(size=300)
    one = draws(items(values, ids=tuple(f"a{i}" for i in range(300))), 2000)
    other = draws(items(values, ids=tuple(f"b{i}" for i in range(300))), 2000)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


def test_the_score_is_the_mean_of_the_groups() -> None:
    two = Items("task", "metric", (group("mean", [0.0, 1.0]), group("mean", [1.0])))
    assert score(two) == pytest.approx(0.75)


def test_a_large_task_is_drawn_in_pieces_as_a_small_one_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    from grace_training.evaluation import report_resample

    made = items(np.random.default_rng(6).normal(size=40))
    whole = draws(made, 50)
    monkeypatch.setattr(report_resample, "_CELLS", 130)
    assert draws(made, 50) == pytest.approx(whole)


def test_seeds_that_differ_widen_the_interval_as_their_standard_error_does() -> None:
    by_seed = np.repeat(np.asarray([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [7.0]]), 20_000, axis=1)
    drawn = over_seeds(by_seed, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(3.5, abs=0.03)
    assert drawn.std() == pytest.approx(np.std(range(8), ddof=1) / math.sqrt(8), rel=0.03)


def test_one_seed_has_the_spread_of_its_items_alone() -> None:
    by_seed = np.random.default_rng(1).normal(size=(1, 100))
    assert over_seeds(by_seed, np.random.default_rng(0)) == pytest.approx(by_seed[0])


TASKS = [f"task {n}" for n in range(56)]


def trained(
    effects: dict[int, float], *, representation: RepresentationName = "mean", preset: str = "paper", shift: float = 0.0
) -> Entry:
    """A row of 56 tasks, all of which every seed shifts by the same number of points."""
    made = []
    for seed, effect in effects.items():
        score = 0.5 + (effect + shift) / 100
        tasks = tuple(TaskRecord(task, "STS", "cosine_spearman", "done", score=score) for task in TASKS)
        run = Run("a", "grace-supervised", "a", f"{preset} {seed}", representation, 32, preset=preset, seed=seed)
        run = replace(run, expected=tuple(TASKS), tasks=tasks)
        made.append((Path(f"/nowhere/{preset}-{seed}-{representation}/grace/run.json"), run))
    (entry,) = entries(made)
    return entry


def width(figure: Any) -> float:
    return float(figure.interval.high - figure.interval.low)


def test_what_a_seed_does_to_every_task_does_not_average_out_over_tasks() -> None:
    entry = trained({1: -2.0, 2: 0.0, 3: 2.0})
    one = mean(entry, TASKS[:1], 1000)
    assert one is not None
    assert width(one) > 3
    assert width(mean(entry, TASKS, 1000)) == pytest.approx(width(one))


def test_one_training_read_in_two_ways_is_compared_seed_by_seed() -> None:
    effects = {1: -2.0, 2: 0.0, 3: 2.0}
    read = trained(effects, representation="rationale", shift=1.0)
    other_order = trained(dict(reversed(effects.items())))
    assert width(difference(read, other_order, TASKS, 1000)) == pytest.approx(0)


def test_the_seeds_of_two_trainings_are_drawn_apart() -> None:
    effects = {1: -2.0, 2: 0.0, 3: 2.0}
    one, other = trained(effects), trained(effects, preset="improved")
    assert width(difference(one, other, TASKS, 1000)) > width(mean(one, TASKS, 1000))


def test_an_interval_that_touches_zero_does_not_leave_it_out() -> None:
    assert Interval(0.1, 0.3).excludes_zero
    assert Interval(-0.3, -0.1).excludes_zero
    assert not Interval(0.0, 0.3).excludes_zero
    assert not Interval(-0.1, 0.3).excludes_zero
