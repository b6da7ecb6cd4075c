"""Vectors drawn on a plane: their two principal axes. Pure. N vectors, H dimensions, B width of the search block.

Principal axes, not t-SNE or UMAP: the plane is linear, so a query is placed on it exactly, the same way as every
document, equal collections give equal pictures, and 20,000 vectors take well under a second. The price: neighbours on
the plane are not always neighbours in the space; `explained` says how much of the spread is to be seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from grace_server.index.vectors import Floats

Doubles = npt.NDArray[np.float64]

_BLOCK = 12  # directions followed at once: ten more than are kept, so that those two are found exactly
_ROUNDS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """Where vectors lie along the two directions of largest spread."""

    centre: Doubles  # (H,) the mean that is subtracted first
    axes: Doubles  # (2, H) of length 1, at right angles; a row of zeros where there is no such direction
    explained: tuple[float, float]  # share of the variance along each

    def place(self, vectors: Floats) -> Doubles:
        """(N, 2) coordinates of (N, H) vectors."""
        return np.asarray((vectors - self.centre) @ self.axes.T, dtype=np.float64)


def plane_of(
    vectors: Floats,  # (N, H)
) -> Plane:
    """The plane of largest variance. Equal vectors in equal order give an equal plane.

    Subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4): H can be thousands, where the whole covariance
    matrix would cost a hundred times as much as the two axes that are wanted.
    """
    count, width = vectors.shape
    centre = vectors.mean(axis=0, dtype=np.float64) if count else np.zeros(width)
    from_centre = vectors - centre
    if float(np.vdot(from_centre, from_centre)) < 1e-12 * max(1, count):
        return Plane(centre, np.zeros((2, width)), (0.0, 0.0))
    # By a power of two, which changes no direction: products of long vectors are no numbers that float32 can hold.
    _, exponent = math.frexp(max(float(from_centre.max()), -float(from_centre.min())))
    spread = np.ldexp(from_centre, -exponent, out=from_centre).astype(np.float32)  # (N, H)
    del from_centre  # twice its size
    total = float(np.square(spread, dtype=np.float64).sum())
    block = np.random.default_rng(0).standard_normal((width, min(_BLOCK, width)))  # (H, B)
    for _ in range(_ROUNDS):
        block, _ = np.linalg.qr((spread.T @ (spread @ block.astype(np.float32))).astype(np.float64))
    along = (spread @ block.astype(np.float32)).astype(np.float64)  # (N, B)
    variances, turns = np.linalg.eigh(along.T @ along)
    kept = min(2, width)
    axes = np.zeros((2, width))
    axes[:kept] = (block @ turns[:, ::-1][:, :kept]).T
    # An axis and its mirror image are as good: the largest component decides, so that pictures do not flip.
    for axis in axes[:kept]:
        axis *= np.sign(axis[np.abs(axis).argmax()]) or 1.0
    shares = [max(0.0, float(v)) / total for v in variances[::-1][:kept]] + [0.0]
    return Plane(centre, axes, (shares[0], shares[1]))
