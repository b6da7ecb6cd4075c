"""The one protocol every engine speaks, and the check they share."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from grace import rationale
from grace.errors import StateMismatch, StateNotFinite
from grace.prompt import Prompter
from grace.representation import FinishReason, Job, Rationale, Representation, Segment

Delta = str  # a piece of a rationale, as it is written


class Engine(Protocol):
    """Writes rationales and sums last hidden states, one job at a time or many at once."""

    async def start(self) -> None:
        """Load the model. Nothing else may be called before.

        Raises:
            UnsupportedModel: its states are not what would be pooled.
        """

    async def represent(self, job: Job) -> Representation:
        """Answer one job. Cancelling the call stops the generation.

        Raises:
            EngineDead: the engine will not answer again.
            StateMismatch: states were lost or counted twice.
            StateNotFinite: states are NaN or infinite.
        """

    def stream(self, job: Job) -> AsyncIterator[Delta | Representation]:
        """Pieces of the rationale as they are written, then the representation, once, last."""

    async def close(self) -> None:
        """Stop and free everything. Calling it twice does nothing the second time."""

    @property
    def dead(self) -> bool:
        """True once the engine will not answer again."""


def outline(
    job: Job,
    prompter: Prompter,
    generated: tuple[int, ...],  # sampled ids, the stop token included; empty if nothing was to be written
) -> tuple[Rationale | None, tuple[Segment, ...]]:
    """The rationale that the sampled ids spell, and the segments whose states are pooled.

    Of the generated tokens the last one never went through the model: it has no state and is not pooled.
    """
    if not job.max_new_tokens:
        return job.given, job.segments
    stopped = generated[-1] in prompter.stop_ids
    ids = generated[:-1] if stopped else generated
    finish_reason: FinishReason = "stop" if stopped else "length"
    written = rationale.read(prompter.decode(ids), ids, finish_reason, thinking_open=job.thinking_open)
    return written, (*job.segments, *prompter.rationale_segments(written, pooled=len(generated) - 1))


def assemble(
    job: Job,
    prompter: Prompter,
    *,
    generated: tuple[int, ...],
    sums: npt.NDArray[np.float32],  # (S, H), the prompt's segments first, then the rationale's
    counts: npt.NDArray[np.integer],  # (S,) states summed per segment
    last: npt.NDArray[np.float32],  # (H,)
    dots: npt.NDArray[np.float32] | None = None,  # (T,) of the pooled positions with the job's probe
) -> Representation:
    """Put names to an engine's sums, and refuse them if a state is missing, too many or no number.

    Raises:
        StateMismatch: the counts are not exactly those that the token ids ask for.
        StateNotFinite: a sum is NaN or infinite, so nothing made of it could be served, kept or searched.
    """
    written, segments = outline(job, prompter, generated)
    expected = [segment.tokens for segment in segments]
    if counts.tolist() != expected:
        raise StateMismatch(f"pooled {counts.tolist()} states per segment, expected {expected}")
    if job.probe and (dots is None or len(dots) != sum(expected)):
        found = "no" if dots is None else len(dots)
        raise StateMismatch(f"{found} states met the probe, expected {sum(expected)}")
    if not all(np.isfinite(numbers).all() for numbers in (sums, last, dots) if numbers is not None):
        raise StateNotFinite("the states are not finite: the weights are damaged, or the dtype has too small a range")
    return Representation(
        segments=segments,
        sums=sums,
        last=last,
        rationale=written,
        prompt_tokens=len(job.prompt_ids),
        input_tokens=job.input_tokens,
        completion_tokens=len(generated),
        truncated=job.truncated,
        dots=dots,
    )


def assemble_states(
    job: Job,
    prompter: Prompter,
    *,
    generated: tuple[int, ...],
    states: npt.NDArray[np.float32],  # (T, H) of the pooled positions, in order
) -> Representation:
    """Sum states by segment, the plain way: what every other engine is held against.

    Raises:
        StateMismatch: there are not exactly as many states as the token ids ask for.
    """
    lengths = [segment.tokens for segment in outline(job, prompter, generated)[1]]
    if sum(lengths) != len(states):
        raise StateMismatch(f"{len(states)} states were kept, expected {sum(lengths)}")
    wide, bounds = states.astype(np.float64), np.cumsum([0, *lengths])
    return assemble(
        job,
        prompter,
        generated=generated,
        sums=np.stack([wide[a:b].sum(axis=0) for a, b in itertools.pairwise(bounds)]).astype(np.float32),
        counts=np.array(lengths),
        last=states[-1],
        dots=(wide @ np.frombuffer(job.probe, "<f4").astype(np.float64)).astype(np.float32) if job.probe else None,
    )
