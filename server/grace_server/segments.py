"""Which sentences a vector is made of, and how much of it each is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grace.attribution import shares
from grace.pooling import Floats, pooled_sources
from grace.representation import Segment, segment_text
from grace_server.embedding import Embedded


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the vector a segment is."""

    source: str
    text: str
    share: float


def explain(embedded: Embedded, *, dimensions: int | None) -> list[Share]:
    """The segments that make up the vector, and the share of each: exact arithmetic, they add up to 1."""
    texts: list[tuple[Segment, str]] = []
    rows: list[Floats] = []
    for sample, (job, representation) in enumerate(zip(embedded.jobs, embedded.representations, strict=True)):
        named = [
            (s, segment_text(s, text=job.text, rationale=representation.rationale)) for s in representation.segments
        ]
        if embedded.pooling == "last":
            kept, sums = [len(named) - 1], representation.last[None]
        else:
            kept = [i for i, (s, _) in enumerate(named) if s.source in pooled_sources(embedded.pooling)]
            sums = representation.sums[kept]
        if len(embedded.jobs) > 1:  # the mean is one of unit vectors
            sums = sums / max(float(np.linalg.norm(sums.sum(axis=0)[:dimensions])), 1e-30)
        for at, row in zip(kept, sums, strict=True):
            # The prompt is the same for all n: its segments come once.
            if sample and at < len(job.segments) and embedded.pooling != "last":
                rows[kept.index(at)] = rows[kept.index(at)] + row
            else:
                texts.append(named[at])
                rows.append(row)
    found = shares(np.stack(rows), dimensions=dimensions)
    return [Share(s.source, text, float(share)) for (s, text), share in zip(texts, found, strict=True)]
