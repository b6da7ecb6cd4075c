"""What becomes of a document that waits for its vector: what is stored of it, or the reason why nothing is."""

from __future__ import annotations

import asyncio

import numpy as np

from grace.errors import EngineDead, EngineError, GraceError
from grace_server.errors import ApiError, GenerationTimeout
from grace_server.index.model import Configured, Model
from grace_server.index.reading import Pending
from grace_server.index.writing import Embedded

ATTEMPTS = 3  # of a text at which the engine fails
RETRY_S, LONGEST_RETRY_S = 0.5, 30.0

Outcome = Embedded | str  # or why not


async def outcome_of(model: Model, collection: Configured, waiting: Pending, *, patient: bool = True) -> Outcome:
    """Embed one document, waiting for the engine as long as it takes; for one that died only if `patient`.

    Raises:
        EngineDead: it died, and not `patient`.
    """
    failures, delay = 0, RETRY_S
    while True:
        try:
            return await _embed(model, collection, waiting)
        except EngineDead:
            if not patient:
                raise
            delay = await rest(delay, None)  # the process ends, or someone starts the engine again
        except (ApiError, EngineError) as error:
            status = error.status if isinstance(error, ApiError) else 500
            if status in (429, 503) and not isinstance(error, GenerationTimeout):
                delay = await rest(delay, getattr(error, "retry_after", None))
                continue
            failures += 1
            if status < 500 or failures == ATTEMPTS:
                return str(error)
            delay = await rest(delay, None)
        except GraceError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - one document's trouble must not stop the others, nor get lost
            return f"{type(error).__name__}: {error}"


async def rest(delay: float, told: float | None) -> float:
    """Wait as long as one is told, or a while that doubles; the next delay."""
    await asyncio.sleep(min(told if told is not None else delay, LONGEST_RETRY_S))
    return min(delay * 2, LONGEST_RETRY_S)


async def _embed(model: Model, collection: Configured, waiting: Pending) -> Outcome:
    settings = collection.settings
    made = await model.embed(
        collection, waiting.text, role="document", mode=settings.document_mode, given=waiting.rationale
    )
    if not np.isfinite(made.vector).all():
        return "the vector is not finite"  # nobody could search with it, and no index be built that holds it
    sums = None if settings.sums == "none" else made.representation.sums
    if sums is not None and settings.sums == "float16":
        # Sums of many tokens could pass what half precision can hold; explanations know no common factor.
        sums = (sums / made.representation.pooled_tokens).astype(sums.dtype)
    return Embedded(
        label=waiting.label,
        vector=made.vector,
        rationale=made.representation.rationale,
        thinking_open=made.job.thinking_open,
        truncated=made.representation.truncated,
        segments=made.representation.segments,
        sums=sums,
        precision="float16" if settings.sums == "float16" else "float32",
    )
