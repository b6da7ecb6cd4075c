"""What goes onto the wire is JSON as everyone reads it, and only numbers that it can hold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from grace_server.routes.shapes import dumps, encoded


@pytest.mark.parametrize(
    "content",
    [
        {"text": 'quotes " and \\, a line\nbreak, \u2028, \x7f, ünïcode 🐟', "empty": [], "none": None, "yes": True},
        {"numbers": [0.1, -1e-300, 1e300, 3, 2**53 + 1, -0.0]},
        {"beyond 64 bits": 2**70},
    ],
)
def test_it_reads_as_what_the_standard_library_writes(content: dict[str, Any]) -> None:
    written = dumps(content)
    assert json.loads(written) == content
    assert written == json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def test_every_float32_comes_back_as_it_was() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    vector = bits.view(np.float32)
    vector = vector[np.isfinite(vector)]
    back = np.array(json.loads(dumps({"v": encoded(vector, "float")}))["v"], dtype=np.float32)
    assert np.array_equal(back, vector)


@pytest.mark.parametrize("encoding", ["float", "base64"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_vector(encoding: Any, bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        encoded(np.array([0.5, bad], dtype=np.float32), encoding)
