"""Vectors between the wire and the program."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_client import vectors

FLOATS = st.lists(st.floats(width=32, allow_nan=False), max_size=20)


@given(FLOATS)
def test_base64_lists_and_arrays_say_the_same(numbers: list[float]) -> None:
    array = np.array(numbers, dtype="<f4")
    text = base64.b64encode(array.tobytes()).decode()
    assert vectors.packed(text) == vectors.packed(numbers) == array.tobytes()
    assert vectors.numbers(vectors.packed(text)) == array.tolist() == vectors.plain(array)
    np.testing.assert_array_equal(vectors.view(vectors.packed(text)), array)


@pytest.mark.parametrize(
    "wrong", ["not base64!", "AAA", "AAAA", 3, None, {"a": 1}, ["a", 0.0], [None, 1.0], [[1.0]], [10**400]]
)
def test_what_is_no_vector_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match="vector"):
        vectors.packed(wrong)


def test_cosines_are_those_of_the_library() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((3, 8)), rng.standard_normal((2, 8))
    expected = [[x @ y / np.linalg.norm(x) / np.linalg.norm(y) for y in b] for x in a]
    np.testing.assert_allclose(vectors.similarity(a, b), expected, atol=1e-6)
    assert vectors.similarity(a[0], a[0].tolist())[0, 0] == pytest.approx(1)
    assert vectors.similarity(np.zeros(8), a[0])[0, 0] == 0
