"""What the subcommands of `grace-index` do. Each takes an open catalog; those that embed take a way to open a model."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from grace.errors import EngineError
from grace.representation import Job, Representation
from grace_server.index import searching
from grace_server.index.backlog import Backlog
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.description import describe
from grace_server.index.document import Document
from grace_server.index.errors import FingerprintMismatch, IndexNotFound, InvalidValue, TooLarge
from grace_server.index.migrate import migrate
from grace_server.index.model import Model
from grace_server.index.settings import CollectionSettings, chosen_for, with_defaults
from grace_server.index.sources import Columns, count_documents, read_documents
from grace_server.index.writing import Change

if TYPE_CHECKING:
    from grace_server.settings import Settings

OpenModel = Callable[[], AbstractAsyncContextManager[Model]]

BATCH = 500  # documents per transaction
MOST_WAITING = 4_000  # documents written and not yet embedded, after which reading waits
PAGE = 500
MADE_WITH = ("pooling", "document_mode", "query_mode", "dimensions", "metric")  # settings that exported vectors bring
_PLACE = re.compile(r"documents\[(\d+)\]")


async def build(
    catalog: Catalog,
    name: str,
    source: Path,
    *,
    columns: Columns,
    settings: Mapping[str, Any],  # those chosen, for a new collection
    open_model: OpenModel | None,  # None: every document brings its vector
    fingerprint: str | None,
    quiet: bool,
    embed: bool = True,  # or leave the documents waiting for their vectors
) -> Collection:
    """Read a source into a collection, made if it is not there. Killed, the same call resumes.

    Raises:
        InvalidValue: a record is no document, or its vector is another model's; all before it are in.
        FingerprintMismatch: `fingerprint` is not the collection's.
        EngineDead: what it had embedded is kept.
    """
    documents = read_documents(source, columns)
    total = await asyncio.to_thread(count_documents, source)
    async with open_model() if open_model else nullcontext() as model:
        collection, documents = _collection(catalog, name, documents, settings, model, fingerprint)
        documents = _of_one_model(documents, collection)
        with tqdm(total=total, unit="document", disable=quiet, desc=name) as bar:
            if model is not None:
                model.check(collection)
            if model is not None and embed:
                await _embed_all(collection, model, documents, bar)
            else:
                for batch in _batches(documents):
                    await asyncio.to_thread(_upsert, collection, batch)
                    bar.update(len(batch))
    await asyncio.to_thread(collection.maintain)
    return collection


def embed_on_ray(collection: Collection, settings: Settings, *, quiet: bool) -> None:
    """Embed what waits with as many engines as the settings allow, on a Ray cluster."""
    from grace_server.engine import make_engine
    from grace_server.replicas import corpus

    waiting = describe(collection).counts.pending
    with corpus.cluster(), tqdm(total=waiting, unit="document", disable=quiet, desc=collection.name) as bar:
        corpus.embed_waiting(collection, settings, make_engine, advance=_advance(bar))
    collection.maintain()


async def search(
    catalog: Catalog, name: str, query: str, options: searching.Options, open_model: OpenModel
) -> list[searching.Answer]:
    """Answer one query. Only lexical search needs no model."""
    collection = catalog.get(name)
    if options.method == "lexical":
        questions = [searching.Question(query, None)]
    else:
        async with open_model() as model:
            questions = await searching.ask(model, collection, texts=[query], vectors=[None], options=options)
    return searching.find(collection, questions, options)[0]


def export(catalog: Catalog, name: str, *, vectors: bool) -> Iterator[str]:
    """All documents as lines of JSON, in the order of their ids; `build` reads them back."""
    collection, after = catalog.get(name), ""
    while page := collection.page(after=after, limit=PAGE):
        for document in page:
            yield json.dumps(_exported(collection, document, vectors), ensure_ascii=False)
        after = page[-1].id


async def move(
    catalog: Catalog,
    source: str,
    target: str,
    *,
    alias: str | None,
    settings: Mapping[str, Any],  # those chosen, for a new collection
    open_model: OpenModel,
    quiet: bool,
) -> Collection:
    """Embed a collection anew under another model, then switch an alias.

    Raises:
        InvalidValue, Conflict, Incomplete, EngineDead: as `migrate` says.
    """
    waiting = describe(catalog.get(source)).counts
    async with open_model() as model:
        with tqdm(total=waiting.ready + waiting.pending, unit="document", disable=quiet, desc=target) as bar:
            return await migrate(
                catalog, model, source=source, target=target, alias=alias, settings=settings, advance=_advance(bar)
            )


async def _embed_all(collection: Collection, model: Model, documents: Iterator[dict[str, Any]], bar: tqdm[Any]) -> None:
    async with Backlog(collection, model, advance=_advance(bar)) as backlog:
        for batch in _batches(documents):
            change = await asyncio.to_thread(_upsert, collection, batch)
            bar.update(change.documents - change.embedding)
            await backlog.grew()
            await backlog.below(MOST_WAITING)
        await backlog.below(1)


def _advance(bar: tqdm[Any]) -> Callable[[int], None]:
    def advance(documents: int) -> None:
        bar.update(documents)

    return advance


def _collection(
    catalog: Catalog,
    name: str,
    documents: Iterator[dict[str, Any]],
    chosen: Mapping[str, Any],
    model: Model | None,
    fingerprint: str | None,
) -> tuple[Collection, Iterator[dict[str, Any]]]:
    try:
        collection = catalog.get(name)
    except IndexNotFound:
        pass
    else:
        _check_model(name, fingerprint, collection.fingerprint)
        return collection, documents
    if model is not None:
        _check_model(name, fingerprint, model.fingerprint)
        settings = chosen_for(model.checkpoint.config, chosen)
        settings, dimensions = with_defaults(settings, hidden_size=model.checkpoint.hidden_size)
        return catalog.create(name, settings, dimensions=dimensions, fingerprint=model.fingerprint), documents
    ahead: list[dict[str, Any]] = []  # those before the first with a vector: they wait for theirs
    for first in documents:
        ahead.append(first)
        if first.get("vector"):
            break
    else:
        raise InvalidValue("no document has a vector: build the index without --vectors", param="source")
    made_by = first.get("fingerprint") or fingerprint
    _check_model(name, fingerprint, made_by)
    settings = _settings_for(first, chosen)
    collection = catalog.create(name, settings, dimensions=len(first["vector"]), fingerprint=made_by)
    return collection, chain(ahead, documents)


def _settings_for(document: Mapping[str, Any], chosen: Mapping[str, Any]) -> CollectionSettings:
    """For a new collection that begins with this document's vector: those chosen, else those it was made with."""
    width, made_with = len(document["vector"]), document["made_with"] or {}
    try:
        if unknown := sorted(set(made_with) - set(MADE_WITH)):
            raise InvalidValue(f"there is no {', '.join(unknown)} in made_with")
        settings = CollectionSettings(**({"dimensions": width} | made_with | dict(chosen)))
        if settings.dimensions not in (None, width):
            raise InvalidValue(f"dimensions are {settings.dimensions}, and the vector has {width}")
    except InvalidValue as error:
        raise InvalidValue(f"{document['place']}: {error}", param="source") from error
    return settings


def _upsert(collection: Collection, batch: Sequence[dict[str, Any]]) -> Change:
    """Write a batch, or of one with a wrong document what comes before it.

    Raises:
        InvalidValue, TooLarge: naming the document's place in its source.
    """
    try:
        return collection.upsert(batch)[1]
    except (InvalidValue, TooLarge) as error:
        if (wrong := _PLACE.match(error.param or "")) is None:
            raise
        number = int(wrong[1])
        if number:
            collection.upsert(batch[:number])
        told = str(error).replace(wrong[0], batch[number]["place"])
        raise type(error)(f"{told}; all before it are in", param="source") from error


def _check_model(name: str, said: str | None, fingerprint: str | None) -> None:
    if said is not None and said != fingerprint:
        raise FingerprintMismatch(f"--fingerprint: {_differ(said, name, fingerprint)}", param="fingerprint")


def _of_one_model(documents: Iterator[dict[str, Any]], collection: Collection) -> Iterator[dict[str, Any]]:
    """The documents, as long as those vectors that say whose they are were made as the collection's are."""
    for document in documents:
        made_by = document.get("fingerprint")
        pooling = (document.get("made_with") or {}).get("pooling", collection.settings.pooling)
        if document.get("vector") and pooling != collection.settings.pooling:
            theirs = f"those of index {collection.name!r} by {collection.settings.pooling!r}"
            raise InvalidValue(f"{document['place']}: the vector is pooled by {pooling!r}, {theirs}", param="source")
        if document.get("vector") and made_by and made_by != collection.fingerprint:
            differ = _differ(made_by, collection.name, collection.fingerprint)
            raise InvalidValue(f"{document['place']}, fingerprint: {differ}", param="source")
        yield document


def _differ(made_by: object, name: str, fingerprint: str | None) -> str:
    theirs = fingerprint or "one that is not known"
    return f"the vectors are by model {made_by}, those of index {name!r} by {theirs}: the two do not compare"


def _batches(documents: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Batches with distinct ids: of two documents with one id the later one wins, as it would one by one.

    What comes before a wrong record is handed out before its error is raised.
    """
    batch: dict[str, dict[str, Any]] = {}
    try:
        for document in documents:
            if document["id"] in batch or len(batch) == BATCH:
                yield list(batch.values())
                batch = {}
            batch[document["id"]] = document
    except (InvalidValue, TooLarge):
        if batch:
            yield list(batch.values())
        raise
    if batch:
        yield list(batch.values())


def _exported(collection: Collection, document: Document, vectors: bool) -> dict[str, Any]:
    given = document.given != "text" and document.rationale is not None
    line: dict[str, Any] = {"id": document.id, "text": document.text, "metadata": document.metadata}
    if document.rationale is not None and (given or vectors):
        line["rationale"] = document.rationale.text
    if (vectors or document.given == "vector") and document.state == "ready":
        line["vector"] = collection.vector(document.label)
        line["made_with"] = {name: getattr(collection.settings, name) for name in MADE_WITH}
        if document.fingerprint is not None:
            line["fingerprint"] = document.fingerprint
    return line


def settings_of(name: str | None, engine: str | None) -> Settings:
    """The settings of the environment, but for these two."""
    from grace_server.settings import Settings

    chosen: dict[str, Any] = {k: v for k, v in (("model", name), ("engine", engine)) if v is not None}
    return Settings(**chosen)


@asynccontextmanager
async def model_of(name: str | None, engine: str | None) -> AsyncIterator[Model]:
    """The model of a checkpoint behind an engine of our own, as the service would start it."""
    # Torch and a tokenizer come with these: seconds that a lexical search or an export need not cost.
    from grace_server.engine import make_engine

    settings = settings_of(name, engine)
    async with without_engine(settings) as model:
        running = make_engine(settings, model.checkpoint, model.prompter)
        await running.start()
        try:
            yield replace(model, represent=running.represent)
        finally:
            await running.close()


@asynccontextmanager
async def without_engine(settings: Settings) -> AsyncIterator[Model]:
    """A model that can say who it is and make jobs, and represents nothing: its engines are elsewhere."""
    from grace.prompt import Prompter
    from grace_server.engine import load_checkpoint

    async def represent(job: Job) -> Representation:
        raise EngineError("there is no engine in this process")

    checkpoint = load_checkpoint(settings)
    yield Model(represent, Prompter(checkpoint), checkpoint)
