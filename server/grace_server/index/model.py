"""The model as the index sees it: a text in, a vector with its rationale and sums out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Protocol

from grace.pooling import finish
from grace.representation import Job, Mode, Representation, Role
from grace_server import tracing
from grace_server.index.collection import Collection
from grace_server.index.errors import FingerprintMismatch, TooLarge
from grace_server.index.settings import CollectionSettings, with_defaults
from grace_server.index.vectors import Floats
from grace_server.together import together

if TYPE_CHECKING:
    from grace.checkpoint import Checkpoint
    from grace.prompt import Prompter

Represent = Callable[[Job], Awaitable[Representation]]
RepresentAll = Callable[[Sequence[Job]], Awaitable[list[Representation]]]


class Configured(Protocol):
    """A collection, or as much of one as embedding a text for it takes."""

    @property
    def settings(self) -> CollectionSettings:
        """What was decided when it was created."""


@dataclass(frozen=True, slots=True, eq=False)
class Represented:
    """A text with its vector, and what the vector was made of."""

    job: Job
    representation: Representation
    vector: Floats  # (H,)


@dataclass(frozen=True, slots=True)
class Model:
    """One checkpoint behind one `represent`."""

    represent: Represent
    prompter: Prompter
    checkpoint: Checkpoint
    max_input_chars: int | None = None  # of what is embedded while someone waits; None: as long as may be
    represent_all: RepresentAll | None = None  # takes the jobs of a request in as a whole, or none of them

    @property
    def fingerprint(self) -> str:
        """Of the checkpoint."""
        return self.checkpoint.fingerprint

    async def embed(
        self, collection: Configured, text: str, *, role: Role, mode: Mode, given: str | None = None
    ) -> Represented:
        """Embed a text the way a collection wants it.

        Raises:
            InvalidInput, EngineError, ApiError: as the prompt, the engine and the stops before it say.
        """
        job = await asyncio.to_thread(
            self.prompter.job, text, role=role, mode="reason" if given is not None else mode, given=given
        )
        return _represented(collection, job, await self.represent(job))

    async def embed_all(
        self, collection: Configured, texts: Sequence[str], *, role: Role, mode: Mode
    ) -> list[Represented]:
        """Embed the texts of one request: all of them or none.

        Raises:
            InvalidInput, EngineError, ApiError: as for one of them.
        """
        if self.represent_all is None or len(texts) < 2:
            return await together(*(self.embed(collection, text, role=role, mode=mode) for text in texts))
        jobs = await asyncio.to_thread(lambda: [self.prompter.job(text, role=role, mode=mode) for text in texts])
        made = await self.represent_all(jobs)
        return [_represented(collection, job, one) for job, one in zip(jobs, made, strict=True)]

    def check_length(self, text: str, *, param: str) -> None:
        """Refuse a text that would take long to tokenise.

        Raises:
            TooLarge: it is.
        """
        if self.max_input_chars is not None and len(text) > self.max_input_chars:
            raise TooLarge(
                f"{param} has {len(text)} characters, the limit is {self.max_input_chars} (max_input_chars)",
                param=param,
            )

    def fits(self, collection: Collection) -> bool:
        """Whether its vectors compare with those of a collection."""
        return collection.fingerprint == self.fingerprint and self._width(collection) == collection.dimensions

    def _width(self, collection: Collection) -> int:
        return with_defaults(collection.settings, hidden_size=self.checkpoint.hidden_size)[1]

    def check(self, collection: Collection) -> None:
        """Refuse to compare vectors that were not made alike.

        Raises:
            FingerprintMismatch: the collection was built by another model, or with vectors of another width; the
                message says what to do.
        """
        if self.fits(collection):
            return
        if collection.fingerprint == self.fingerprint:
            raise FingerprintMismatch(
                f"index {collection.name!r} holds vectors of {collection.dimensions} dimensions, and this model makes "
                f"{self._width(collection)} under its settings: search it with method 'lexical' or with a vector of "
                "that width, or make it anew with 'dimensions' among its settings",
                param="index",
            )
        built = "from ready vectors" if collection.fingerprint is None else f"by the model {collection.fingerprint}"
        raise FingerprintMismatch(
            f"index {collection.name!r} was built {built}, this server runs {self.fingerprint}: their vectors do not "
            f"compare. Search it with method 'lexical' or with a vector of its own model, serve that model, or embed "
            f"it anew with: grace-index --model {quote(self.checkpoint.name)} migrate --index {collection.name} "
            "--to NEW_NAME",
            param="index",
        )


def _represented(collection: Configured, job: Job, made: Representation) -> Represented:
    settings = collection.settings
    with tracing.span("pool", {"grace.inputs": 1}):
        vector = made.vector(settings.pooling, dimensions=settings.dimensions, normalize=settings.metric == "cosine")
        return Represented(job, made, finish(vector, dimensions=None, normalize=False))
