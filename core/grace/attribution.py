"""Exact arithmetic of a score: which sentences it comes from. Pure functions over segment sums, no model call.

Mean pooling is linear, so with segment sums S_i (document A, n tokens, mean a) and T_j (document B, m tokens, mean b)

    cos(a, b) = sum over i, j of  S_i . T_j / (n m |a| |b|)

The table adds up to the score; it says how the number is made up, not what caused the model's states.
S, R segments of the two sides, H hidden size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def contributions(
    sums_a: npt.NDArray[np.floating],  # (S, H) segment sums of one side
    sums_b: npt.NDArray[np.floating],  # (R, H) segment sums of the other
    *,
    dimensions: int | None = None,  # the truncation the score was computed under
) -> Floats:
    """(S, R) float64 table whose total is the cosine of the two mean-pooled vectors.

    The token counts cancel against the norms of the means, so they are not needed. A side without length gives zeros.
    """
    a = np.asarray(sums_a, dtype=np.float64)[:, :dimensions]
    b = np.asarray(sums_b, dtype=np.float64)[:, :dimensions]
    scale = float(np.linalg.norm(a.sum(axis=0)) * np.linalg.norm(b.sum(axis=0)))
    if scale == 0.0:
        return np.zeros((len(a), len(b)))
    return np.asarray(a @ b.T / scale)


def shares(sums: npt.NDArray[np.floating], *, dimensions: int | None = None) -> Floats:
    """(S,) float64 share of each segment in its own vector: S_i . s / |s|^2, where s is the sum. They add up to 1."""
    a = np.asarray(sums, dtype=np.float64)[:, :dimensions]
    total = a.sum(axis=0)
    squared = float(total @ total)
    return np.asarray(a @ total / squared) if squared > 0 else np.zeros(len(a))
