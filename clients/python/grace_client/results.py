"""What the server answers, typed. Fields that a newer server adds are passed over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from grace_client import vectors
from grace_client.answer import Rationale, Result, Source, State, Usage
from grace_client.explanations import Explanation, Mean

if TYPE_CHECKING:
    from grace_client.vectors import Floats

Packed = Annotated[
    bytes, BeforeValidator(vectors.packed), PlainSerializer(vectors.numbers, return_type=list[float], when_used="json")
]


class Segment(Result):
    """A sentence of the text or the rationale, or the template between them, and its share in the vector."""

    source: Source
    text: str
    share: float
    start: int | None = None  # in characters of the text or the rationale
    end: int | None = None
    tokens: int | None = None
    sample: int | None = None  # of which of n rationales it is


class SourceShare(Result):
    """The share of a source in a vector."""

    source: Source
    share: float


class Audit(Result):
    """A signed record of what a vector was made from: a line for `grace-index audit verify`."""

    record: dict[str, Any]
    signature: str


class Embedding(Result):
    """One text, embedded."""

    index: int
    embedding: Packed = Field(repr=False)  # little-endian float32
    rationale: Rationale | None
    input_tokens: int
    truncated: bool
    cached: bool
    consistency: float | None  # mean pairwise cosine of n rationales' vectors
    segments: list[Segment] | None = None  # shares add up to 1
    sources: list[SourceShare] | None = None  # the same by source
    audit: Audit | None = None

    @property
    def vector(self) -> Floats:
        """(H,) a read-only array over the bytes that came. Needs numpy."""
        return vectors.view(self.embedding)

    @property
    def numbers(self) -> list[float]:
        """The vector without numpy."""
        return vectors.numbers(self.embedding)


class Embeddings(Result):
    """The embeddings of a request, in the order of the texts."""

    model: str
    fingerprint: str
    data: list[Embedding]
    usage: Usage

    @property
    def vectors(self) -> Floats:
        """(B, H) float32. Needs numpy."""
        np = vectors.numpy()
        stacked: Floats = np.stack([item.vector for item in self.data])
        return stacked

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> Embedding:
        return self.data[place]

    def __iter__(self) -> Iterator[Embedding]:  # type: ignore[override]  # pydantic's goes over the fields
        return iter(self.data)


class Place(Result):
    """Where one of the lists that a hybrid search fuses has a hit."""

    rank: int
    score: float
    contribution: float | None = None  # to the fused score


class Hit(Result):
    """A document found."""

    id: str
    score: float
    text: str
    metadata: dict[str, Any]
    rationale: Rationale | None
    dense: Place | None
    lexical: Place | None
    explanation: Explanation | None
    not_explained: str | None


class Query(Result):
    """The question as it was understood."""

    text: str | None
    rationale: Rationale | None


class Timing(Result):
    """Milliseconds."""

    embed: float
    search: float


class Found(Result):
    """What one question found."""

    query: Query
    exact: bool  # true only if no other document could belong among the hits
    timing_ms: Timing
    hits: list[Hit]
    mean: Mean | None = None  # what centred explanations took off


class FoundEach(Result):
    """What several questions found, in their order."""

    results: list[Found]


class Counts(Result):
    """Documents by state."""

    ready: int
    pending: int
    failed: int
    cancelled: int


class Index(Result):
    """An index, described."""

    name: str
    aliases: list[str]
    settings: dict[str, Any]
    dimensions: int
    fingerprint: str | None
    rows: int
    documents: Counts
    tombstones: int
    index_kind: str
    bytes: int
    seq: int
    created_at: float  # seconds since 1970
    checkpoint_age_s: float | None
    doubts: list[str]


class Indexes(Result):
    """All indexes."""

    data: list[Index]


class Alias(Result):
    """A name that stands for an index."""

    alias: str
    index: str


class Failure(Result):
    """A document that could not be embedded."""

    id: str
    reason: str


class Job(Result):
    """Embedding work: `total` = `done` + `failed` + `superseded` + `left`."""

    id: str
    state: Literal["running", "done", "cancelled"]
    total: int
    done: int
    failed: int
    superseded: int
    left: int
    rate: float | None  # documents per second
    seconds_left: float | None
    created_at: float  # seconds since 1970
    finished_at: float | None
    failures: list[Failure]


class Written(Result):
    """What became of a batch of documents. Everything in it is durable."""

    documents: int
    unchanged: int
    job: Job


class StoredDocument(Result):
    """A document as it is kept."""

    id: str
    state: State
    text: str
    metadata: dict[str, Any]
    given: Literal["text", "rationale", "vector"]
    rationale: Rationale | None
    fingerprint: str | None
    truncated: bool
    reason: str | None
    seq: int


class Page(Result):
    """Documents in the order of their ids."""

    data: list[StoredDocument]
    next: str | None


class Deleted(Result):
    """How many documents were there and are gone."""

    deleted: int


class Limits(Result):
    """What one request may ask for."""

    max_input_tokens: int
    max_rationale_tokens: int
    default_rationale_tokens: int
    dimensions: int
    max_inputs: int
    max_samples: int
    max_input_chars: int
    max_body_bytes: int


class Info(Result):
    """The service, described."""

    model: str
    fingerprint: str
    engine: str
    dtype: str
    pooling: str
    similarity: str
    instruction: dict[str, str]
    limits: Limits
    versions: dict[str, str]
    settings: dict[str, Any] = Field(repr=False)
    audit_key: str | None = Field(None, repr=False)  # public, PEM
