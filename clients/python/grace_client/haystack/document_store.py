"""An index of a GRACE server as a document store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from haystack import Document, default_from_dict, default_to_dict
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret

from grace_client import wire
from grace_client._async.client import AsyncGraceClient
from grace_client._sync.client import GraceClient
from grace_client.answer import Method
from grace_client.errors import IndexNotFound
from grace_client.haystack.filters import filter_errors, to_server
from grace_client.haystack.server import DEFAULT_KEY, Server
from grace_client.results import Hit, Index, StoredDocument
from grace_client.upload import check


class GraceDocumentStore:
    """An index of a GRACE server.

    A document with an embedding is stored under it, one without is embedded by the server, which keeps its rationale.
    Embeddings are not sent back. `rationale_key` is the meta field in which found documents carry their rationale.
    An index that is not there is empty, and is created by the first write.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: Secret | None = DEFAULT_KEY,
        index: str = "default",
        rationale_key: str | None = None,
        *,
        client: GraceClient | None = None,
        async_client: AsyncGraceClient | None = None,
    ) -> None:
        self.index = index
        self.rationale_key = rationale_key
        self._server = Server(url, api_key, client, async_client)

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline file keeps."""
        return default_to_dict(self, **self._server.written_down(), index=self.index, rationale_key=self.rationale_key)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GraceDocumentStore:
        """From what `to_dict` wrote."""
        return default_from_dict(cls, data)

    def count_documents(self) -> int:
        """How many documents there are, embedded or not yet."""
        try:
            return _count(self._server.clients.sync.indexes.get(self.index))
        except IndexNotFound:
            return 0

    async def count_documents_async(self) -> int:
        """How many documents there are, embedded or not yet."""
        try:
            return _count(await self._server.clients.concurrent.indexes.get(self.index))
        except IndexNotFound:
            return 0

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """How many documents a filter lets through."""
        return len(self.filter_documents(filters))

    async def count_documents_by_filter_async(self, filters: dict[str, Any]) -> int:
        """How many documents a filter lets through."""
        return len(await self.filter_documents_async(filters))

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The documents a filter lets through, in the order of their ids.

        Raises:
            FilterError: the filter is wrong; the message names the place.
        """
        with filter_errors():
            try:
                found = self._server.clients.sync.documents.list(self.index, filter=to_server(filters))
                return [self.read(one) for one in found]
            except IndexNotFound:
                return []

    async def filter_documents_async(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The documents a filter lets through, in the order of their ids.

        Raises:
            FilterError: the filter is wrong; the message names the place.
        """
        with filter_errors():
            try:
                found = self._server.clients.concurrent.documents.list(self.index, filter=to_server(filters))
                return [self.read(one) async for one in found]
            except IndexNotFound:
                return []

    def write_documents(self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE) -> int:
        """Write documents and wait until they can be found; how many were written. `NONE` is `FAIL`.

        Only `OVERWRITE` is one step: the others ask first, and a document that another program writes in between is
        overwritten.

        Raises:
            DuplicateDocumentError: one is there already, under `FAIL`. Nothing was written.
            GraceError: some could not be embedded; it names the first. The others can be found.
        """
        wanted = _checked(documents)
        client = self._server.clients.sync
        if policy != DuplicatePolicy.OVERWRITE:
            try:
                there = client.documents.get_each(self.index, [d.id for d in wanted])
            except IndexNotFound:
                there = {}
            wanted = _without(wanted, there, policy)
        written = [_to_server(document) for document in _last_of_each(wanted)]
        try:
            uploaded = client.documents.upload(self.index, written)
        except IndexNotFound:
            client.indexes.create(self.index, _settings(written))
            uploaded = client.documents.upload(self.index, written)
        check(uploaded)
        return len(wanted)

    async def write_documents_async(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """As `write_documents`."""
        wanted = _checked(documents)
        client = self._server.clients.concurrent
        if policy != DuplicatePolicy.OVERWRITE:
            try:
                there = await client.documents.get_each(self.index, [d.id for d in wanted])
            except IndexNotFound:
                there = {}
            wanted = _without(wanted, there, policy)
        written = [_to_server(document) for document in _last_of_each(wanted)]
        try:
            uploaded = await client.documents.upload(self.index, written)
        except IndexNotFound:
            await client.indexes.create(self.index, _settings(written))
            uploaded = await client.documents.upload(self.index, written)
        check(uploaded)
        return len(wanted)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Delete documents by id. Ids that are not there are no error."""
        try:
            self._server.clients.sync.documents.delete(self.index, document_ids)
        except IndexNotFound:
            return

    async def delete_documents_async(self, document_ids: list[str]) -> None:
        """Delete documents by id. Ids that are not there are no error."""
        try:
            await self._server.clients.concurrent.documents.delete(self.index, document_ids)
        except IndexNotFound:
            return

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Delete the documents a filter lets through; how many there were."""
        with filter_errors():
            try:
                return self._server.clients.sync.documents.delete(self.index, filter=to_server(filters) or wire.EVERY)
            except IndexNotFound:
                return 0

    async def delete_by_filter_async(self, filters: dict[str, Any]) -> int:
        """Delete the documents a filter lets through; how many there were."""
        client = self._server.clients.concurrent
        with filter_errors():
            try:
                return await client.documents.delete(self.index, filter=to_server(filters) or wire.EVERY)
            except IndexNotFound:
                return 0

    def delete_all_documents(self) -> None:
        """Delete every document."""
        self.delete_by_filter({})

    async def delete_all_documents_async(self) -> None:
        """Delete every document."""
        await self.delete_by_filter_async({})

    def search(
        self,
        query: str | None = None,
        vector: Sequence[float] | None = None,
        *,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        method: Method = "dense",
    ) -> list[Document]:
        """The documents nearest to a query or a vector, scored. What the retrievers call."""
        with filter_errors():
            try:
                found = self._server.clients.sync.search(
                    query, vector=vector, index=self.index, k=top_k, filter=to_server(filters), method=method
                )
            except IndexNotFound:
                return []
        return [self.read(hit) for hit in found.hits]

    async def search_async(
        self,
        query: str | None = None,
        vector: Sequence[float] | None = None,
        *,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        method: Method = "dense",
    ) -> list[Document]:
        """As `search`."""
        with filter_errors():
            try:
                found = await self._server.clients.concurrent.search(
                    query, vector=vector, index=self.index, k=top_k, filter=to_server(filters), method=method
                )
            except IndexNotFound:
                return []
        return [self.read(hit) for hit in found.hits]

    def read(self, stored: StoredDocument | Hit) -> Document:
        """A document of the server as Haystack's."""
        meta = dict(stored.metadata)
        if self.rationale_key and stored.rationale:
            meta[self.rationale_key] = stored.rationale.text
        score = stored.score if isinstance(stored, Hit) else None
        return Document(id=stored.id, content=stored.text, meta=meta, score=score)


def _count(index: Index) -> int:
    states = index.documents
    return states.ready + states.pending + states.failed + states.cancelled


def _checked(documents: object) -> list[Document]:
    if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
        raise ValueError("write_documents takes a list of documents")
    return documents


def _without(documents: list[Document], there: Iterable[str], policy: DuplicatePolicy) -> list[Document]:
    known = set(there)
    new = []
    for document in documents:
        if document.id in known:
            if policy == DuplicatePolicy.SKIP:
                continue
            raise DuplicateDocumentError(f"there is a document {document.id!r} already")
        known.add(document.id)
        new.append(document)
    return new


def _last_of_each(documents: list[Document]) -> list[Document]:
    return list({document.id: document for document in documents}.values())


def _to_server(document: Document) -> wire.Document:
    if document.content is None and document.embedding is None:
        raise ValueError(f"document {document.id!r} has neither content nor an embedding")
    return wire.Document(document.id, document.content, document.meta, vector=document.embedding)


def _settings(documents: Sequence[wire.Document]) -> dict[str, Any]:
    given = next((one.vector for one in documents if one.vector is not None), None)
    return {} if given is None else {"dimensions": len(given)}
