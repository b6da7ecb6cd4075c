"""A score told token by token: each side is run once more with the other's vector as a probe."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np

from grace.attribution import by_token
from grace.pooling import Floats, Pooling, pooled_sources
from grace.prompt import Prompter
from grace.representation import replay
from grace_server.comparison import Run
from grace_server.stop import Stop


@dataclass(frozen=True, slots=True)
class Token:
    """A pooled token, and what it adds to the score."""

    text: str  # "" where a character is still in the making
    segment: int  # place among the segments of its side
    contribution: float


async def token_contributions(
    front: Stop,
    prompter: Prompter,
    run: Run,
    other: Floats,  # (D,) the other side's vector
    *,
    pooling: Pooling,
) -> list[Token]:
    """What every pooled token adds to the cosine with `other`, in one prefill pass. Together: the cosine.

    Token t with state h adds h . v / (|s| |v|), s being the sum of the pooled states, over the dimensions of v.
    """
    probe = np.zeros(prompter.checkpoint.hidden_size, dtype=np.float32)
    probe[: len(other)] = other
    job = replay(run.job, run.written, run.segments, probe)
    made = await front.represent(job)
    assert made.dots is not None  # the engine refuses to answer a probe without them
    segment_of = np.repeat(np.arange(len(run.segments)), [segment.tokens for segment in run.segments])
    texts = await asyncio.to_thread(prompter.pieces, job.prompt_ids[job.pooled_from :])
    if pooling == "last":
        kept, places = np.array([len(texts) - 1]), {len(run.segments) - 1: 0}
        total = made.last.astype(np.float64)
    else:
        pooled = [i for i, segment in enumerate(run.segments) if segment.source in pooled_sources(pooling)]
        kept, places = np.flatnonzero(np.isin(segment_of, pooled)), {at: i for i, at in enumerate(pooled)}
        total = made.sums[pooled].sum(axis=0, dtype=np.float64)
    added = by_token(
        made.dots[kept],
        length=float(np.linalg.norm(total[: len(other)])),
        other=float(np.linalg.norm(other.astype(np.float64))),
    )
    return [
        Token(texts[at], places[int(segment_of[at])], contribution)
        for at, contribution in zip(kept.tolist(), added.tolist(), strict=True)
    ]
