"""Pooling and attribution promise plain arithmetic over the sums: checked against brute force in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace import contributions, shares
from grace.errors import InvalidInput
from grace.pooling import POOLINGS, combine, unit
from grace.representation import Representation, Segment, Source


def representation(seed: int, *, sources: list[Source] | None = None, hidden: int = 8) -> Representation:
    rng = np.random.default_rng(seed)
    segments = tuple(
        Segment(s, 0, 0, int(rng.integers(1, 9))) for s in sources or ["input", "input", "template", "rationale"]
    )
    return Representation(
        segments=segments,
        sums=rng.standard_normal((len(segments), hidden)).astype(np.float32),
        last=rng.standard_normal(hidden).astype(np.float32),
        rationale=None,
        prompt_tokens=20,
        input_tokens=5,
        completion_tokens=3,
        truncated=False,
    )


@given(seed=st.integers(0, 2**32 - 1), dimensions=st.integers(1, 8))
def test_every_pooling_is_the_mean_of_its_own_states_cut_and_scaled(seed: int, dimensions: int) -> None:
    r = representation(seed)
    for pooling, sources in {
        "mean": {"input", "template", "rationale"},
        "input": {"input"},
        "rationale": {"rationale"},
    }.items():
        total = sum(s.astype(np.float64) for s, seg in zip(r.sums, r.segments, strict=True) if seg.source in sources)
        mean = total / sum(seg.tokens for seg in r.segments if seg.source in sources)
        np.testing.assert_allclose(r.vector(pooling, normalize=False), mean, rtol=1e-5)  # type: ignore[arg-type]
        cut = mean[:dimensions] / np.linalg.norm(mean[:dimensions])
        np.testing.assert_allclose(r.vector(pooling, dimensions=dimensions), cut, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_array_equal(r.vector("last", normalize=False), r.last)


@given(a=st.integers(0, 2**32 - 1), b=st.integers(0, 2**32 - 1), dimensions=st.sampled_from([None, 1, 5]))
def test_contributions_add_up_to_the_cosine(a: int, b: int, dimensions: int | None) -> None:
    x, y = representation(a), representation(b)
    cosine = float(x.vector(dimensions=dimensions) @ y.vector(dimensions=dimensions))
    table = contributions(x.sums, y.sums, dimensions=dimensions)
    assert table.shape == (len(x.segments), len(y.segments))
    assert table.sum() == pytest.approx(cosine, abs=1e-5)
    assert shares(x.sums, dimensions=dimensions).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("pooling", ["input", "rationale"])
def test_a_pooling_without_tokens_is_refused(pooling: str) -> None:
    with pytest.raises(InvalidInput, match="no token to pool"):
        representation(0, sources=["template"]).vector(pooling)  # type: ignore[arg-type]


@pytest.mark.parametrize("dimensions", [0, -1, 9])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_dimensions_out_of_range_are_refused_with_the_range(pooling: str, dimensions: int) -> None:
    with pytest.raises(InvalidInput, match=r"1\.\.8"):
        representation(0).vector(pooling, dimensions=dimensions)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=6))
def test_consistency_is_the_mean_pairwise_cosine(seeds: list[int]) -> None:
    vectors = [representation(seed).vector() for seed in seeds]
    pairs = [float(a @ b) for i, a in enumerate(vectors) for b in vectors[i + 1 :]]
    vector, consistency = combine(vectors)
    assert consistency == pytest.approx(np.mean(pairs), abs=1e-5)
    mean = np.mean(vectors, axis=0)
    np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)


def test_a_zero_vector_stays_zero() -> None:
    r = representation(0)
    r.sums[:] = 0
    assert not r.vector().any()
    assert not contributions(r.sums, r.sums).any()
    assert not shares(r.sums).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_does_not_become_a_zero_vector(bad: float) -> None:
    found = unit(np.array([[bad, 1.0], [0.0, 0.0], [3.0, 4.0]]))
    assert np.isnan(found[0]).any()
    np.testing.assert_array_equal(found[1:], [[0.0, 0.0], [0.6, 0.8]])
