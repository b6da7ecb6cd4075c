"""One side of a comparison: what its vector is made of, whether it was embedded just now or long ago into an index."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from grace.attribution import Floats as Doubles
from grace.attribution import centred
from grace.representation import Source


@dataclass(frozen=True, slots=True)
class Part:
    """A segment that was pooled: a row of the table of an explanation."""

    source: Source
    text: str
    start: int  # in characters, of the text or of the rationale
    end: int
    tokens: int  # whose states were pooled
    sample: int = 0  # of which of n rationales it is; 0 for what they share


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """Parts, and a row for each, whose sum has the direction of the vector that was compared. S parts."""

    parts: tuple[Part, ...]
    rows: npt.NDArray[np.floating]  # (S, H) or (S, D)
    weights: Doubles  # (S,) shares of the tokens, adding up to 1; a token of one of n rationales weighs 1/n
    vector: npt.NDArray[np.float32]  # (D,) as it was served

    def less(self, mean: npt.NDArray[np.floating], *, dimensions: int | None) -> Side:
        """The same with the mean (D,) of many vectors subtracted from the vector at length 1."""
        rows = centred(self.rows, self.weights, mean, dimensions=dimensions)
        return replace(self, rows=rows, vector=rows.sum(axis=0).astype(np.float32))


def token_weights(parts: list[Part] | tuple[Part, ...]) -> Doubles:
    """(S,) shares of the parts in their tokens."""
    tokens = np.array([part.tokens for part in parts], dtype=np.float64)
    return np.asarray(tokens / tokens.sum())
