"""Vectors as they lie in SQLite: little-endian float32 or float16, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from grace.pooling import unit
from grace_server.index.errors import InvalidValue, StoreDamaged

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Precision = Literal["float32", "float16"]

# Of a vector whose length counts: the product of two, as of any parts of them, is a number that float32 can hold.
LONGEST = math.sqrt(float(np.finfo(np.float32).max)) * (1 - 1e-3)

_DTYPES: dict[Precision, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def to_blob(values: npt.NDArray[np.floating], precision: Precision = "float32") -> bytes:
    """The bytes of a vector (H,) or of sums (S, H)."""
    return np.ascontiguousarray(values, dtype=_DTYPES[precision]).tobytes()


def from_blob(blob: bytes, *, rows: int, width: int, precision: Precision = "float32") -> Floats:
    """(rows, width) float32 out of a blob.

    Raises:
        StoreDamaged: the blob's length is another.
    """
    if len(blob) != rows * width * _DTYPES[precision].itemsize:
        raise StoreDamaged("a stored vector has the wrong length: restore a snapshot")
    values: Floats = np.frombuffer(blob, dtype=_DTYPES[precision]).reshape(-1, width).astype(np.float32)
    return values


def checked_together(vectors: Sequence[object], *, dimensions: int | None, normalize: bool) -> Floats | None:
    """(N, H), what `checked` makes of each, in a fraction of the time; None if one has to be looked at by itself."""
    try:
        rows: npt.NDArray[np.floating] = np.asarray(vectors, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if rows.ndim != 2 or rows.size == 0 or (dimensions is not None and rows.shape[1] != dimensions):
        return None
    if not (np.abs(rows).max(axis=1) <= np.finfo(np.float32).max).all():  # false also for NaN
        return None
    if normalize:
        rows = unit(rows)
        if not rows.any(axis=1).all():
            return None
    elif (np.linalg.norm(rows, axis=1) > LONGEST).any():
        return None
    return rows.astype(np.float32)


def checked(values: object, *, dimensions: int | None, normalize: bool, param: str) -> Floats:
    """(H,) float32 of a vector given by a caller, at length 1 if `normalize`.

    Raises:
        InvalidValue: not a list of finite numbers that float32 can hold, of the wrong number of dimensions, of length 0
            where a direction is needed, or so long that scores could be infinite.
    """
    try:
        vector: npt.NDArray[np.floating] = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidValue(f"{param} must be a list of numbers", param=param) from error
    if vector.ndim != 1 or vector.size == 0:
        raise InvalidValue(f"{param} must be a list of numbers", param=param)
    if dimensions is not None and vector.size != dimensions:
        raise InvalidValue(
            f"{param} has {vector.size} dimensions, this index has {dimensions}: send a vector of the model that "
            "built the index",
            param=param,
        )
    if not np.isfinite(vector).all() or np.abs(vector).max() > np.finfo(np.float32).max:
        raise InvalidValue(f"{param} must hold finite float32 numbers, without NaN and infinity", param=param)
    if normalize:
        vector = unit(vector)
        if not vector.any():
            raise InvalidValue(f"{param} is a zero vector, which has no direction to compare", param=param)
    elif (length := float(np.linalg.norm(vector))) > LONGEST:
        raise InvalidValue(
            f"{param} has length {length:.1e}, the limit is {LONGEST:.1e}: inner products of longer vectors are not "
            "numbers that float32 can hold",
            param=param,
        )
    return vector.astype(np.float32)
