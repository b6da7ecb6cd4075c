"""Exact arithmetic of a score: which sentences it comes from. Pure functions over segment sums, no model call.

Mean pooling is linear, so with segment sums S_i (document A, n tokens, mean a) and T_j (document B, m tokens, mean b)

    cos(a, b) = sum over i, j of  S_i . T_j / (n m |a| |b|)

The table adds up to the score; it says how the number is made up, not what caused the model's states.
S, R segments of the two sides, H hidden size, D <= H dimensions kept.

Every function takes any rows whose sum has the direction of the vector that was served: segment sums, or what
`centred` and `fitted` make of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NOTHING_LEFT = 1e-5  # of a vector's length: below, what is left after a subtraction is rounding


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
    """(S,) float64 share of each segment in its own vector: S_i . s / |s|^2, where s is the sum.

    They add up to 1; a sum without length, of which a truncation can leave nothing, gives zeros.
    """
    a = np.asarray(sums, dtype=np.float64)[:, :dimensions]
    total = a.sum(axis=0)
    squared = float(total @ total)
    return np.asarray(a @ total / squared) if squared > 0 else np.zeros(len(a))


def gram(sums: npt.NDArray[np.floating], *, dimensions: int | None = None) -> Floats:
    """(S, S) inner products S_i . S_k / |s|^2 of one side's segments, s their sum. They add up to 1, or are zeros.

    With the table of `contributions` and the grams of both sides, the score without any set of segments is
    (sum of the table's kept cells) / sqrt(sum of the kept cells of either gram, multiplied): see `score_of`.
    """
    a = np.asarray(sums, dtype=np.float64)[:, :dimensions]
    total = a.sum(axis=0)
    squared = float(total @ total)
    return np.asarray(a @ a.T / squared) if squared > 0 else np.zeros((len(a), len(a)))


def score_of(
    table: Floats,  # (S, R) as `contributions` gives it
    gram_a: Floats,  # (S, S)
    gram_b: Floats,  # (R, R)
    *,
    keep_a: npt.NDArray[np.bool_],  # (S,)
    keep_b: npt.NDArray[np.bool_],  # (R,)
) -> float | None:
    """The cosine of what is kept of both sides; None where nothing with a direction is left."""
    left = float(gram_a[np.ix_(keep_a, keep_a)].sum())
    right = float(gram_b[np.ix_(keep_b, keep_b)].sum())
    if min(left, right) < _NOTHING_LEFT**2:
        return None
    return float(table[np.ix_(keep_a, keep_b)].sum() / np.sqrt(left * right))


def without_each(
    sums_a: npt.NDArray[np.floating],  # (S, H)
    sums_b: npt.NDArray[np.floating],  # (R, H)
    *,
    dimensions: int | None = None,
) -> list[float | None]:
    """S cosines: of the first side without its i-th segment, and the second side. None where nothing is left.

    Pooling is linear: the sum of the segment is subtracted. The model did read it: the states of the other segments,
    and a rationale written about it, stay as they are.
    """
    a = np.asarray(sums_a, dtype=np.float64)[:, :dimensions]
    b = np.asarray(sums_b, dtype=np.float64)[:, :dimensions].sum(axis=0)
    total = a.sum(axis=0)
    rest = total - a  # (S, H)
    lengths = np.linalg.norm(rest, axis=1)
    other = float(np.linalg.norm(b))
    least = _NOTHING_LEFT * float(np.linalg.norm(total))
    dots = rest @ b
    return [
        float(dot / (length * other)) if len(a) > 1 and other > 0 and length > least else None
        for dot, length in zip(dots.tolist(), lengths.tolist(), strict=True)
    ]


def centred(
    sums: npt.NDArray[np.floating],  # (S, H) segment sums of one side
    weights: npt.NDArray[np.floating],  # (S,) the segments' shares of its tokens, adding up to 1
    mean: npt.NDArray[np.floating],  # (D,) of unit vectors: the direction they have in common
    *,
    dimensions: int | None = None,
) -> Floats:
    """(S, D) rows that add up to the side's unit vector less the mean; every token gives up the same piece of it.

    With v = s / |s| and v' = v - mean, the centred cosine is cos(v'_a, v'_b), and `contributions` of these rows adds up
    to it: S_i / |s| - w_i mean sums to v - mean. A side without length gives zeros.
    """
    rows = np.asarray(sums, dtype=np.float64)[:, :dimensions]
    length = float(np.linalg.norm(rows.sum(axis=0)))
    if length == 0.0:
        return np.zeros_like(rows)
    return np.asarray(rows / length - np.outer(weights, np.asarray(mean, dtype=np.float64)))


def fitted(
    sums: npt.NDArray[np.floating],  # (S, H) segment sums, as float16 gives them back
    weights: npt.NDArray[np.floating],  # (S,) the segments' shares of its tokens, adding up to 1
    vector: npt.NDArray[np.floating],  # (D,) the vector that was served
) -> Floats:
    """(S, D) rows that add up to exactly the direction of `vector`: what rounding took is spread over the tokens.

    Sums kept in half precision miss the served score by more than 1e-5; the vector itself is kept in full.
    """
    rows = np.asarray(sums, dtype=np.float64)[:, : len(vector)]
    total, wide = rows.sum(axis=0), np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(wide))
    if length == 0.0:
        return np.zeros_like(rows)
    scale = float(total @ wide) / length  # of the sums, where the vector is at length 1
    return np.asarray(rows + np.outer(weights, wide / length * scale - total))


def by_token(
    dots: npt.NDArray[np.floating],  # (T,) inner products of the pooled states with the other side's vector
    *,
    length: float,  # of the sum of these states, over the dimensions compared
    other: float,  # length of the other side's vector
) -> Floats:
    """(T,) what each token adds to the cosine: t . v / (n |mean| |v|), n |mean| being the length of the sum."""
    scale = length * other
    return np.asarray(dots, dtype=np.float64) / scale if scale > 0 else np.zeros(len(dots))
