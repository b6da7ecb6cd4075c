"""GRACE: text embeddings with the rationale they were made from.

>>> from grace import Grace
>>> grace = Grace.load()  # doctest: +SKIP
>>> grace.encode(["The harbour froze in 1432."]).shape  # doctest: +SKIP
(1, 384)
"""

from typing import TYPE_CHECKING, Any

from grace.attribution import contributions, shares
from grace.checkpoint import Checkpoint, CheckpointConfig
from grace.errors import (
    CheckpointError,
    EngineDead,
    EngineError,
    GraceError,
    InputTooLong,
    InvalidInput,
    StateMismatch,
    StateNotFinite,
    UnsupportedModel,
)
from grace.representation import Job, Rationale, Representation, Segment

if TYPE_CHECKING:
    from grace.model import Grace

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "CheckpointConfig",
    "CheckpointError",
    "EngineDead",
    "EngineError",
    "Grace",
    "GraceError",
    "InputTooLong",
    "InvalidInput",
    "Job",
    "Rationale",
    "Representation",
    "Segment",
    "StateMismatch",
    "StateNotFinite",
    "UnsupportedModel",
    "contributions",
    "shares",
]


def __getattr__(name: str) -> Any:
    # Grace brings torch and a tokenizer with it: seconds that reading a checkpoint or a table need not cost.
    if name == "Grace":
        from grace.model import Grace

        return Grace
    raise AttributeError(f"module 'grace' has no attribute {name!r}")
