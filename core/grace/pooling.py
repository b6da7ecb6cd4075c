"""From segment sums to vectors: pure functions. S segments, H hidden size, D <= H dimensions kept.

The paper's vector is `mean`: the mean of the last hidden states over text, template suffix and rationale, the system
prefix left out, then L2-normalised (GRACE, arXiv 2510.04506, section on representation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from grace.errors import InvalidInput, check_one_of

if TYPE_CHECKING:
    from grace.representation import Representation

Pooling = Literal["mean", "rationale", "input", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

Floats = npt.NDArray[np.float32]


def pooled_sources(pooling: Pooling) -> tuple[str, ...]:
    """Which sources of segments a pooling averages over; `last` reads one state and averages nothing."""
    match pooling:
        case "mean":
            return ("input", "template", "rationale")
        case "rationale":
            return ("rationale",)
        case "input":
            return ("input",)
        case "last":
            return ()


def pool(
    representation: Representation, pooling: Pooling, *, dimensions: int | None = None, normalize: bool = True
) -> Floats:
    """(H,) or (dimensions,) float32: the representation under a pooling, cut to `dimensions`, then L2-normalised.

    Raises:
        InvalidInput: the pooling has no token to pool (an empty text under `input`, no rationale under `rationale`), or
            `dimensions` is not in 1..H.
    """
    check_one_of("pooling", pooling, POOLINGS)
    if pooling == "last":
        vector = representation.last.astype(np.float64)
    else:
        keep = np.array([s.source in pooled_sources(pooling) for s in representation.segments], dtype=bool)
        count = int(representation.counts[keep].sum())
        if count == 0:
            raise InvalidInput(f"pooling {pooling!r} has no token to pool here", param="pooling")
        vector = representation.sums[keep].astype(np.float64).sum(axis=0) / count
    return finish(vector, dimensions=dimensions, normalize=normalize)


def finish(vector: npt.NDArray[np.floating], *, dimensions: int | None, normalize: bool) -> Floats:
    """(D,) float32: cut to the first `dimensions`, then scale to length 1 (a zero vector stays zero).

    Raises:
        InvalidInput: `dimensions` is not in 1..H.
    """
    check_dimensions(dimensions, vector.shape[-1])
    vector = vector[:dimensions]
    if normalize:
        vector = unit(vector)
    return vector.astype(np.float32)


def check_dimensions(dimensions: int | None, most: int) -> None:
    """Whether so many of `most` can be kept; None is all.

    Raises:
        InvalidInput: they cannot.
    """
    if dimensions is not None and not 1 <= dimensions <= most:
        raise InvalidInput(f"dimensions must lie in 1..{most}, got {dimensions}", param="dimensions")


def unit(vector: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The vector at length 1 along its last axis; a zero vector stays zero, NaN stays NaN.

    Of half precision, whose squares are infinite from 256 on, and of whole numbers it comes back wider.
    """
    vector = vector.astype(np.result_type(vector, np.float32), copy=False)
    norm = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.asarray(np.divide(vector, norm, out=np.zeros_like(vector), where=norm != 0))


def combine(vectors: list[Floats], *, normalize: bool = True) -> tuple[Floats, float]:
    """Average n vectors of one text (D,) each; the second value is their mean pairwise cosine, the consistency.

    The vectors are given at the length they are to be averaged at: unit vectors give every rationale the same weight.
    """
    stack = np.stack(vectors).astype(np.float64)  # (n, D)
    n = len(vectors)
    units = unit(stack)
    consistency = (
        1.0 if n == 1 else float((np.square(units.sum(axis=0)).sum() - np.square(units).sum()) / (n * (n - 1)))
    )
    return finish(stack.mean(axis=0), dimensions=None, normalize=normalize), consistency
