"""Which sentences a vector is made of, and how much of it each is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grace.attribution import shares
from grace.pooling import Floats, pooled_sources
from grace.representation import segment_text
from grace_server.sides import Part, Side

if TYPE_CHECKING:
    from grace_server.embedding import Embedded


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the vector a segment is."""

    part: Part
    share: float


def explain(embedded: Embedded, *, dimensions: int | None) -> list[Share]:
    """The segments that make up the vector, and the share of each: exact arithmetic, they add up to 1."""
    side = side_of(embedded, dimensions=dimensions)
    found = shares(side.rows, dimensions=dimensions)
    return [Share(part, float(share)) for part, share in zip(side.parts, found, strict=True)]


def side_of(embedded: Embedded, *, dimensions: int | None) -> Side:
    """The segments that make up the vector, and rows for them whose sum has its direction."""
    parts: list[Part] = []
    rows: list[Floats] = []
    weights: list[float] = []
    n = len(embedded.jobs)
    last = embedded.pooling == "last"
    for sample, (job, representation) in enumerate(zip(embedded.jobs, embedded.representations, strict=True)):
        if last:
            kept, sums = [len(representation.segments) - 1], representation.last[None]
        else:
            sources = pooled_sources(embedded.pooling)
            kept = [i for i, segment in enumerate(representation.segments) if segment.source in sources]
            sums = representation.sums[kept]
        if n > 1:  # the mean is one of unit vectors
            sums = sums / max(float(np.linalg.norm(sums.sum(axis=0)[:dimensions])), 1e-30)
        pooled = 1 if last else int(representation.counts[kept].sum())
        for at, row in zip(kept, sums, strict=True):
            segment = representation.segments[at]
            tokens = 1 if last else segment.tokens
            # The prompt is the same for all n: its segments come once.
            if sample and at < len(job.segments) and not last:
                place = kept.index(at)
                rows[place] = rows[place] + row
                weights[place] += tokens / pooled / n
                continue
            text = segment_text(segment, text=job.text, rationale=representation.rationale)
            parts.append(Part(segment.source, text, segment.start, segment.end, tokens, sample))
            rows.append(row)
            weights.append(tokens / pooled / n)
    return Side(tuple(parts), np.stack(rows), np.array(weights), embedded.vector)
