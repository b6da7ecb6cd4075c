"""Vectors: little-endian float32 on the wire, numpy arrays or lists of numbers here. numpy is optional."""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


def packed(value: object) -> bytes:
    """Bytes of a vector as the wire has it: base64, or a list of numbers.

    Raises:
        ValueError: it is neither.
    """
    match value:
        case bytes():
            return value
        case str():
            try:
                raw = base64.b64decode(value, validate=True)
            except binascii.Error as error:
                raise ValueError("a vector must be base64 of little-endian float32") from error
            if len(raw) % 4:
                raise ValueError(f"a vector of {len(raw)} bytes is not made of float32")
            return raw
        case list() | tuple():
            try:
                return _swapped(array("f", value)).tobytes()
            except (TypeError, OverflowError) as error:
                raise ValueError("a vector must be numbers") from error
        case _:
            raise ValueError(f"a vector cannot be read from {type(value).__name__}")


def numbers(raw: bytes) -> list[float]:
    """A vector as Python floats."""
    return _swapped(array("f", raw)).tolist()


def view(raw: bytes) -> Floats:
    """(H,) a vector as a read-only numpy array over the same memory.

    Raises:
        ImportError: numpy is not installed.
    """
    array_view: Floats = numpy().frombuffer(raw, dtype="<f4")
    return array_view


def plain(vector: Sequence[float] | Floats) -> list[float]:
    """A vector as JSON takes it."""
    return vector.tolist() if hasattr(vector, "tolist") else [float(x) for x in vector]


def similarity(a: Floats | Sequence[Any], b: Floats | Sequence[Any]) -> Floats:
    """(N, M) cosines of vectors (N, H) and (M, H); a single vector (H,) counts as one row.

    Raises:
        ValueError: the vectors differ in their dimensions.
        ImportError: numpy is not installed.
    """
    np = numpy()
    rows, columns = (np.atleast_2d(np.asarray(x, dtype=np.float32)) for x in (a, b))
    if rows.shape[1] != columns.shape[1]:
        raise ValueError(f"vectors of {rows.shape[1]} and {columns.shape[1]} dimensions cannot be compared")
    rows, columns = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (rows, columns))
    product: Floats = rows @ columns.T
    return product


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """The inner product, without numpy."""
    return sum(x * y for x, y in zip(a, b, strict=True))


def numpy() -> Any:
    """numpy, or an ImportError that says how to get it."""
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError("arrays need numpy; in a checkout: pip install './clients/python[numpy]'") from error
    return np


def _swapped(values: array[float]) -> array[float]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
