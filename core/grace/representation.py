"""What goes into an engine (`Job`) and what comes out (`Representation`).

Letters in shapes: S segments, H hidden size, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from grace import pooling as _pooling
from grace.pooling import Pooling

Role = Literal["document", "query"]
Mode = Literal["reason", "direct"]
Source = Literal["input", "template", "rationale"]
FinishReason = Literal["stop", "length", "given"]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of neighbouring tokens whose states are summed together: usually one sentence.

    `start` and `end` are character offsets into the text named by `source`: the job's text for "input", the rationale's
    text for "rationale"; both 0 for "template" (the turn markers between text and rationale).
    """

    source: Source
    start: int
    end: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Rationale:
    """What the model wrote about a text."""

    text: str  # as written, with its <think> tags
    thinking: str  # inside <think>...</think>
    understanding: str  # after </think>
    token_ids: tuple[int, ...]  # without the stop token
    finish_reason: FinishReason

    @property
    def tokens(self) -> int:
        """How many tokens the rationale has, the stop token not counted."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Job:
    """One text on its way through the service: its prompt as token ids, and where its parts begin and end.

    The prompt is prefix | text | suffix (| given rationale). Positions from `pooled_from` on are pooled.
    """

    text: str  # well-formed, and no longer than what `prompt_ids` holds of it
    prompt_ids: tuple[int, ...]
    pooled_from: int  # position of the first pooled token: the length of the prefix
    segments: tuple[Segment, ...]  # of the prompt's pooled part, in order; their tokens add up to it
    max_new_tokens: int  # 0: nothing is generated (`direct`, or a given rationale)
    temperature: float = 0.0
    sample: int = 0  # which of n rationales this is; 0 when there is one
    truncated: bool = False
    given: Rationale | None = None
    thinking_open: bool = False  # the template itself opened <think>
    probe: bytes = b""  # (H,) float32: the pooled states' inner products with it are wanted, too

    @property
    def input_tokens(self) -> int:
        """Tokens of the text itself."""
        return sum(segment.tokens for segment in self.segments if segment.source == "input")

    @property
    def tokens_needed(self) -> int:
        """The most tokens this job can hold in the engine: prompt and generation budget."""
        return len(self.prompt_ids) + self.max_new_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Representation:
    """One text, represented: sums of last hidden states per segment, in float32, and the rationale.

    Every pooling, the shares and the attribution come from these sums without another pass.
    """

    segments: tuple[Segment, ...]
    sums: Floats = field(repr=False)  # (S, H) sum of the states of each segment, after the model's final norm
    last: Floats = field(repr=False)  # (H,) state of the last pooled token
    rationale: Rationale | None
    prompt_tokens: int  # all of the prompt, prefix included
    input_tokens: int  # of the text itself
    completion_tokens: int  # sampled, the stop token included
    truncated: bool
    cached: bool = field(default=False)
    dots: Floats | None = field(default=None, repr=False)  # (T,) of each pooled state with the job's probe

    @property
    def counts(self) -> Ints:
        """(S,) pooled tokens per segment."""
        return np.array([segment.tokens for segment in self.segments], dtype=np.int64)

    @property
    def pooled_tokens(self) -> int:
        """How many states were pooled in all."""
        return int(self.counts.sum())

    def vector(self, pooling: Pooling = "mean", *, dimensions: int | None = None, normalize: bool = True) -> Floats:
        """Pool the states into one vector of shape (H,) or (dimensions,).

        Raises:
            InvalidInput: the pooling has no token to pool, or `dimensions` is not in 1..H.
        """
        return _pooling.pool(self, pooling, dimensions=dimensions, normalize=normalize)


def replay(job: Job, written: Sequence[int], segments: tuple[Segment, ...], probe: Floats) -> Job:
    """The job that runs a text once more with the rationale it got, and takes the states' inner products with `probe`.

    One prefill pass over the very ids that were pooled: nothing is written, and no text is tokenised again. Of a
    rationale that ran into its budget the last token was never pooled; it is left away here, too.

    written: token ids of the rationale that was written for the job; none for a given one, which its prompt holds.
    segments: what was pooled, as the representation tells.
    probe: (H,) of the hidden size; zeros beyond the dimensions that are compared.
    """
    pooled = sum(segment.tokens for segment in segments) - (len(job.prompt_ids) - job.pooled_from)
    return replace(
        job,
        prompt_ids=(*job.prompt_ids, *written[:pooled]),
        segments=segments,
        max_new_tokens=0,
        temperature=0.0,
        sample=0,
        probe=np.ascontiguousarray(probe, dtype="<f4").tobytes(),
    )


def written_ids(job: Job, made: Representation) -> tuple[int, ...]:
    """Token ids of the rationale that was written for a job; none if it was given, or there is none."""
    return made.rationale.token_ids if made.rationale and job.max_new_tokens else ()


def segment_text(segment: Segment, *, text: str, rationale: Rationale | None) -> str:
    """The words a segment stands for; empty for the template."""
    if segment.source == "input":
        return text[segment.start : segment.end]
    if segment.source == "rationale" and rationale is not None:
        return rationale.text[segment.start : segment.end]
    return ""
