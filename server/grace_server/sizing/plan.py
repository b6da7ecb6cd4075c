"""From measured figures to machines: what each step of a corpus costs, and which one decides.

Nothing here is a property of GRACE alone: `tokens_per_s` is one engine's, with one model on one machine, and comes from
whoever plans. D documents, H dimensions, S segments of a document.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Held = Literal["flat", "ivf", "sq8"]  # what is in memory: vectors; vectors with an index on top; 8-bit codes alone

DAY_S = 86_400.0
BYTES_PER_TOKEN = 4.5  # of an English text, UTF-8
ROW_BYTES = 400.0  # of a document's own: id, metadata, keys, its part of the trees
WORDS_OVER_TEXT = 1.0  # size of the text index over that of the texts
PAGE_BYTES = 8_192  # of the database: two rows of more than half a page do not share one
# Memory over what the vectors themselves take, while the index is being rebuilt (docs/scale.md).
OVER_VECTORS: dict[Held, float] = {"flat": 1.0, "ivf": 2.6, "sq8": 0.6}


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of one's own machines."""

    tokens_per_s: float  # prompts and rationales together, that one engine gets through when it is busy
    writes_per_s: float  # documents with their vectors, committed by the one writer of an index
    search_ms: float  # of one core, for one query over `search_rows` rows
    search_rows: float
    engine_cost_per_h: float = 0.0  # of the machine share that one engine takes


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is to be kept and found."""

    documents: float
    tokens_per_document: float
    rationale_tokens: float  # 0: mode direct
    instruction_tokens: float  # of the prompt, for every document; nearly free where vLLM's prefix cache has it
    dimensions: int
    segments: float = 8.0  # per document, whose sums are kept for explanations
    sums_bytes: int = 4  # of each number: 4, 2 (float16) or 0 (none kept)
    held: Held = "ivf"


@dataclass(frozen=True, slots=True)
class Wanted:
    """By when, how fast, on which machines."""

    days: float  # until the corpus is embedded
    queries_per_s: float
    query_tokens: float  # of a query's prompt and rationale
    memory_gib: float  # of one machine with an index
    disk_gib: float
    cores: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Costs, and machines by step, in fractions. What one machine cannot hold or write is split into indexes."""

    engine_days: float  # of one engine, for the whole corpus
    cost: float  # of embedding the corpus
    disk_gib: float
    memory_gib: float  # of vectors and index, during a rebuild
    write_days: float  # of one writer
    to_embed: float  # engines, for the corpus in the time given
    to_serve: float  # engines, for the queries
    for_memory: float  # machines with an index each
    for_disk: float
    for_writes: float
    for_search: float

    @property
    def engines(self) -> int:
        """For the corpus first, for the queries afterwards."""
        return max(whole(self.to_embed), whole(self.to_serve))

    @property
    def indexes(self) -> int:
        """Machines with an index each; a query asks all of them."""
        return max(map(whole, (self.for_memory, self.for_disk, self.for_writes, self.for_search)))

    @property
    def bottleneck(self) -> str:
        """The step that asks for the most machines, of which there may be less than one."""
        steps = {
            "embedding": self.to_embed,
            "queries": self.to_serve,
            "index memory": self.for_memory,
            "storage": self.for_disk,
            "writing": self.for_writes,
            "search": self.for_search,
        }
        return max(steps, key=lambda step: steps[step])


HEADROOM = 0.7  # share of an engine's rate that queries may ask for: above, queues grow out of proportion


def plan(corpus: Corpus, measured: Measured, wanted: Wanted) -> Plan:
    """The plan of a corpus.

    Raises:
        ValueError: a figure that something is divided by is not above zero; names it.
    """
    for owner, name in ((measured, "tokens_per_s"), (measured, "writes_per_s"), (measured, "search_rows"),
                        (wanted, "days"), (wanted, "memory_gib"), (wanted, "disk_gib"), (wanted, "cores")):  # fmt: skip
        if getattr(owner, name) <= 0:
            raise ValueError(f"{name} must be above 0, got {getattr(owner, name):g}")
    engine_s = corpus.documents * tokens_of(corpus) / measured.tokens_per_s
    disk_gib = corpus.documents * document_bytes(corpus) / 2**30
    memory_gib = corpus.documents * memory_bytes(corpus) / 2**30
    write_s = corpus.documents / measured.writes_per_s
    return Plan(
        engine_days=engine_s / DAY_S,
        cost=engine_s / 3600 * measured.engine_cost_per_h,
        disk_gib=disk_gib,
        memory_gib=memory_gib,
        write_days=write_s / DAY_S,
        to_embed=engine_s / DAY_S / wanted.days,
        to_serve=wanted.queries_per_s * wanted.query_tokens / measured.tokens_per_s / HEADROOM,
        for_memory=memory_gib / wanted.memory_gib,
        for_disk=disk_gib / wanted.disk_gib,
        for_writes=write_s / DAY_S / wanted.days,
        for_search=search_cores(corpus, measured, wanted) / wanted.cores,
    )


def tokens_of(corpus: Corpus) -> float:
    """Tokens that go through an engine for one document."""
    return corpus.instruction_tokens + corpus.tokens_per_document + corpus.rationale_tokens


def document_bytes(corpus: Corpus) -> float:
    """On disk, of one document: texts, their words, vector, sums."""
    text = BYTES_PER_TOKEN * (corpus.tokens_per_document + corpus.rationale_tokens)
    sums = corpus.segments * corpus.dimensions * corpus.sums_bytes
    if sums > PAGE_BYTES / 2:
        sums = math.ceil(sums / PAGE_BYTES) * PAGE_BYTES
    return ROW_BYTES + text * (1 + WORDS_OVER_TEXT) + 4 * corpus.dimensions + sums


def memory_bytes(corpus: Corpus) -> float:
    """In memory, of one document, while its index is being rebuilt."""
    return 4 * corpus.dimensions * OVER_VECTORS[corpus.held]


def search_cores(corpus: Corpus, measured: Measured, wanted: Wanted) -> float:
    """Cores that searching keeps busy: flat is linear in the rows, cells are probed in proportion to their root."""
    ratio = corpus.documents / measured.search_rows
    ms = measured.search_ms * (ratio if corpus.held == "flat" else math.sqrt(ratio))
    return wanted.queries_per_s * ms / 1000 / HEADROOM


def whole(machines: float) -> int:
    """Machines that can be bought: at least one."""
    return max(1, math.ceil(machines - 1e-9))
