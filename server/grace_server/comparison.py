"""The two sides of an explanation: texts that are embedded now, or documents of an index with what it keeps of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from grace.errors import InvalidInput
from grace.pooling import Pooling
from grace.representation import Job, Mode, Rationale, Role, Segment, Source, written_ids
from grace_server.embedding import Embedded, Options, embed
from grace_server.errors import ApiError, InvalidValue, renamed
from grace_server.house import House
from grace_server.index.collection import Collection
from grace_server.index.document import Document
from grace_server.index.errors import DocumentNotFound
from grace_server.index.explanation import Unexplainable, stored_side
from grace_server.index.indexes import Indexes
from grace_server.index.settings import check_mode
from grace_server.segments import side_of
from grace_server.sides import Side
from grace_server.together import together


@dataclass(frozen=True, slots=True)
class Words:
    """A text to embed."""

    text: str
    role: Role
    rationale: str | None


@dataclass(frozen=True, slots=True)
class Stored:
    """A document of the index, by its id."""

    id: str


@dataclass(frozen=True, slots=True)
class Run:
    """What was run for a side, so that it can be run again: its prompt, the rationale's ids, what was pooled."""

    job: Job
    written: tuple[int, ...]  # ids of the rationale that was written for the job
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One side, and what the reply tells of it."""

    side: Side
    role: Role
    rationale: Rationale | None
    input_tokens: int
    truncated: bool
    cached: bool
    consistency: float | None
    embedded: Embedded | None = None  # None: nothing was embedded, it is a stored document
    document: Document | None = None
    stored: tuple[Segment, ...] = ()  # as the index keeps the document's

    def pooling(self, house: House) -> Pooling:
        """Under which its vector was made."""
        return self.embedded.pooling if self.embedded else house.checkpoint.config.pooling

    def run(self, house: House, mode: Mode) -> Run:
        """How its states were made.

        Raises:
            InvalidValue: the index keeps the rationale as text, which is other tokens now.
        """
        if self.embedded is not None:
            job, made = self.embedded.jobs[0], self.embedded.representations[0]
            return Run(job, written_ids(job, made), made.segments)
        assert self.document is not None
        return _run_of(house, self.document, mode, self.stored)


async def compare_texts(house: House, options: Options, *sides: tuple[str, Words]) -> list[Compared]:
    """Embed texts under the same options.

    Raises:
        ApiError, InvalidInput: as embedding says; `param` begins with the side.
    """

    async def one(name: str, words: Words) -> Compared:
        with _named(name):
            given = None if words.rationale is None else [words.rationale]
            [embedded] = await embed(house, [words.text], replace(options, role=words.role), given)
            return _compared(embedded, words.role, dimensions=options.dimensions)

    return await together(*(one(name, words) for name, words in sides))


async def compare_in_index(
    indexes: Indexes, collection: Collection, mode: Mode | None, *sides: tuple[str, Words | Stored]
) -> list[Compared]:
    """Sides under the settings of an index: documents from what it keeps, texts embedded as it would.

    Raises:
        FingerprintMismatch: a text is to be embedded, and another model built the index.
        DocumentNotFound: there is no such document, or it has no vector yet.
        InvalidValue: nothing is kept that an explanation could be made of.
        ApiError, InvalidInput: as embedding says; `param` begins with the side.
    """

    async def one(name: str, given: Words | Stored) -> Compared:
        if isinstance(given, Stored):
            return await indexes.on_search_thread(lambda: _stored(collection, name, given.id))
        indexes.model.check(collection)
        with _named(name):
            indexes.model.check_length(given.text, param="text")
            indexes.model.check_length(given.rationale or "", param="rationale")
            settings = collection.settings
            its = mode or (settings.query_mode if given.role == "query" else settings.document_mode)
            if given.rationale is None:
                check_mode(settings, its, param="mode")
            made = await indexes.model.embed(collection, given.text, role=given.role, mode=its, given=given.rationale)
            embedded = Embedded((made.job,), (made.representation,), settings.pooling, made.vector, None)
            return _compared(embedded, given.role, dimensions=settings.dimensions)

    return await together(*(one(name, given) for name, given in sides))


def _stored(collection: Collection, name: str, document_id: str) -> Compared:
    document = collection.get(document_id)
    if document is None or document.state != "ready":
        state = "is not there" if document is None else f"is {document.state}, it has no vector"
        raise DocumentNotFound(
            f"document {document_id[:80]!r} of index {collection.name!r} {state}", param=f"{name}.id"
        )
    vector = collection.vectors(np.array([document.label], dtype=np.int64))
    if not len(vector):
        raise DocumentNotFound(f"document {document_id[:80]!r} was replaced just now", param=f"{name}.id")
    try:
        side = stored_side(collection, document, vector[0])
    except Unexplainable as error:
        raise InvalidValue(f"{name} cannot be explained: {error}", param=f"{name}.id") from None
    kept = collection.sums(document.label)
    tokens = sum(s.tokens for s in kept.segments if s.source == "input") if kept else 0
    segments = tuple(kept.segments) if kept else ()
    return Compared(
        side, "document", document.rationale, tokens, document.truncated, True, None, document=document, stored=segments
    )


def _run_of(house: House, document: Document, mode: Mode, stored: tuple[Segment, ...]) -> Run:
    written = document.rationale
    given = written.text if written and written.finish_reason == "given" else None
    job = house.prompter.job(
        document.text, role="document", mode=mode if given is None else "reason", given=given, max_rationale_tokens=None
    )
    if given is not None or written is None:
        return Run(job, (), _as_kept(stored, job.segments))
    ids = house.prompter.rationale_ids(written.text)
    if len(ids) != written.tokens:
        raise InvalidValue(
            "tokens: the index keeps this document's rationale as text, and it is not read as the tokens that were "
            "written; its sentences are exact all the same",
            param="tokens",
        )
    pooled = len(ids) - (written.finish_reason == "length")  # the last token of a cut rationale has no state
    segments = (*job.segments, *house.prompter.rationale_segments(written_as(written, ids), pooled=pooled))
    return Run(job, ids, _as_kept(stored, segments))


def _as_kept(stored: tuple[Segment, ...], cut: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """The same tokens as the index has them cut: a version before this one may have known other ends of sentences."""
    return stored if _tokens_by_source(stored) == _tokens_by_source(cut) else cut


def _tokens_by_source(segments: tuple[Segment, ...]) -> Counter[Source]:
    found: Counter[Source] = Counter()
    for segment in segments:
        found[segment.source] += segment.tokens
    return found


def written_as(written: Rationale, ids: tuple[int, ...]) -> Rationale:
    """The rationale with the token ids that an index does not keep."""
    return Rationale(written.text, written.thinking, written.understanding, ids, written.finish_reason)


def _compared(embedded: Embedded, role: Role, *, dimensions: int | None) -> Compared:
    job = embedded.jobs[0]
    return Compared(
        side_of(embedded, dimensions=dimensions),
        role,
        embedded.rationale,
        job.input_tokens,
        job.truncated,
        embedded.cached,
        embedded.consistency,
        embedded=embedded,
    )


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let errors name the side: the embedding knows neither side nor our names."""
    fields = {"input": "", "text": "", "rationale": ".rationale"}
    try:
        yield
    except (ApiError, InvalidInput) as error:
        if error.param in fields:
            raise renamed(error, name + fields[error.param]) from error
        raise
