"""Which sentences a vector is made of, and how much of it each is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grace.attribution import shares
from grace.pooling import Floats, pooled_sources
from grace.representation import Source, segment_text
from grace_server.embedding import Embedded


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the vector a segment is."""

    source: str
    text: str
    share: float


@dataclass(frozen=True, slots=True)
class Part:
    """A segment that was pooled: a row of the table of an explanation."""

    source: Source
    text: str
    start: int  # in characters, of the text or of the rationale
    end: int
    tokens: int  # whose states were pooled
    sample: int  # of which of n rationales it is; 0 for what they share


def explain(embedded: Embedded, *, dimensions: int | None) -> list[Share]:
    """The segments that make up the vector, and the share of each: exact arithmetic, they add up to 1."""
    found, sums = parts(embedded, dimensions=dimensions)
    return [
        Share(part.source, part.text, float(share))
        for part, share in zip(found, shares(sums, dimensions=dimensions), strict=True)
    ]


def parts(embedded: Embedded, *, dimensions: int | None) -> tuple[list[Part], Floats]:
    """The segments that make up the vector, and their rows (S, H), whose sum has the vector's direction."""
    found: list[Part] = []
    rows: list[Floats] = []
    for sample, (job, representation) in enumerate(zip(embedded.jobs, embedded.representations, strict=True)):
        last = embedded.pooling == "last"
        if last:
            kept, sums = [len(representation.segments) - 1], representation.last[None]
        else:
            sources = pooled_sources(embedded.pooling)
            kept = [i for i, segment in enumerate(representation.segments) if segment.source in sources]
            sums = representation.sums[kept]
        if len(embedded.jobs) > 1:  # the mean is one of unit vectors
            sums = sums / max(float(np.linalg.norm(sums.sum(axis=0)[:dimensions])), 1e-30)
        for at, row in zip(kept, sums, strict=True):
            # The prompt is the same for all n: its segments come once.
            if sample and at < len(job.segments) and not last:
                rows[kept.index(at)] = rows[kept.index(at)] + row
                continue
            segment = representation.segments[at]
            text = segment_text(segment, text=job.text, rationale=representation.rationale)
            tokens = 1 if last else segment.tokens
            found.append(Part(segment.source, text, segment.start, segment.end, tokens, sample))
            rows.append(row)
    return found, np.stack(rows)
