"""LangChain: embeddings and a vector store. `pip install 'grace-client[langchain]'`.

store = GraceVectorStore("papers", url="http://localhost:8000")
store.add_texts(["The river rises in the hills."])
retriever = store.as_retriever(search_kwargs={"k": 3})
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self
from uuid import uuid4

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from grace_client import wire
from grace_client._async.client import AsyncGraceClient
from grace_client._sync.client import GraceClient
from grace_client.answer import Method, Mode
from grace_client.errors import IndexNotFound
from grace_client.results import Found, Hit, StoredDocument
from grace_client.twins import Twins
from grace_client.upload import check

Filter = Mapping[str, Any]


class GraceEmbeddings(Embeddings):
    """Vectors of a GRACE server: queries and documents each in their role."""

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        mode: Mode = "reason",
        dimensions: int | None = None,
        client: GraceClient | None = None,
        async_client: AsyncGraceClient | None = None,
    ) -> None:
        self.mode = mode
        self.dimensions = dimensions
        self._twins = Twins(url, api_key, client, async_client)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        items = self._twins.sync.embed_each(texts, role="document", mode=self.mode, dimensions=self.dimensions)
        return [item.numbers for item in items]

    def embed_query(self, text: str) -> list[float]:
        """The vector of what is searched with."""
        return self._twins.sync.embed(text, role="query", mode=self.mode, dimensions=self.dimensions)[0].numbers

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        items = await self._twins.concurrent.embed_each(
            texts, role="document", mode=self.mode, dimensions=self.dimensions
        )
        return [item.numbers for item in items]

    async def aembed_query(self, text: str) -> list[float]:
        """The vector of what is searched with."""
        items = await self._twins.concurrent.embed(text, role="query", mode=self.mode, dimensions=self.dimensions)
        return items[0].numbers


class GraceVectorStore(VectorStore):
    """An index of a GRACE server.

    Without `embedding` the server embeds documents and queries itself and keeps their rationales; with one, its vectors
    are stored, which must not have more dimensions than the server's model. `rationale_key` is the metadata key under
    which found documents carry their rationale; None leaves the metadata alone. An index that is not there is created
    by the first write.
    """

    def __init__(
        self,
        index: str = "default",
        *,
        embedding: Embeddings | None = None,
        url: str | None = None,
        api_key: str | None = None,
        rationale_key: str | None = None,
        client: GraceClient | None = None,
        async_client: AsyncGraceClient | None = None,
    ) -> None:
        self.index = index
        self.rationale_key = rationale_key
        self._embedding = embedding
        self._twins = Twins(url, api_key, client, async_client)

    @property
    def embeddings(self) -> Embeddings | None:
        """What embeds on this side, if anything does."""
        return self._embedding

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Write texts and wait until they can be found; their ids, new ones where none was given.

        Raises:
            GraceError: some could not be embedded; it names the first. The others can be found.
        """
        listed = list(texts)
        vectors = self._embedding.embed_documents(listed) if self._embedding else None
        documents = _documents(listed, metadatas, ids, vectors)
        try:
            uploaded = self._twins.sync.documents.upload(self.index, documents)
        except IndexNotFound:
            self._twins.sync.indexes.create(self.index, _settings(vectors))
            uploaded = self._twins.sync.documents.upload(self.index, documents)
        check(uploaded)
        return [document.id for document in documents]

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Write texts and wait until they can be found; their ids, new ones where none was given.

        Raises:
            GraceError: some could not be embedded; it names the first. The others can be found.
        """
        listed = list(texts)
        vectors = await self._embedding.aembed_documents(listed) if self._embedding else None
        documents = _documents(listed, metadatas, ids, vectors)
        client = self._twins.concurrent
        try:
            uploaded = await client.documents.upload(self.index, documents)
        except IndexNotFound:
            await client.indexes.create(self.index, _settings(vectors))
            uploaded = await client.documents.upload(self.index, documents)
        check(uploaded)
        return [document.id for document in documents]

    def add_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Write documents and wait until they can be found; their ids."""
        ids = kwargs.pop("ids", None) or [document.id for document in documents]
        texts, metadatas = [d.page_content for d in documents], [d.metadata for d in documents]
        return self.add_texts(texts, metadatas, ids=ids, **kwargs)

    async def aadd_documents(self, documents: list[Document], **kwargs: Any) -> list[str]:
        """Write documents and wait until they can be found; their ids."""
        ids = kwargs.pop("ids", None) or [document.id for document in documents]
        texts, metadatas = [d.page_content for d in documents], [d.metadata for d in documents]
        return await self.aadd_texts(texts, metadatas, ids=ids, **kwargs)

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by id, or all of them. Ids that are not there are no error."""
        if ids is None:
            self._twins.sync.documents.delete_all(self.index)
        else:
            self._twins.sync.documents.delete(self.index, ids)
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by id, or all of them. Ids that are not there are no error."""
        if ids is None:
            await self._twins.concurrent.documents.delete_all(self.index)
        else:
            await self._twins.concurrent.documents.delete(self.index, ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by their ids; those that are not there are left out."""
        return [self._read(one) for one in self._twins.sync.documents.get_each(self.index, ids).values()]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by their ids; those that are not there are left out."""
        return [self._read(one) for one in (await self._twins.concurrent.documents.get_each(self.index, ids)).values()]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None, method: Method = "dense", **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The documents nearest to a query, with their cosines. Filters: docs/search.md."""
        vector = self._embedding.embed_query(query) if self._embedding and method != "lexical" else None
        return self._read_all(
            self._twins.sync.search(
                query=query if vector is None or method != "dense" else None,
                vector=vector,
                index=self.index,
                k=k,
                filter=filter,
                method=method,
            )
        )

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, *, filter: Filter | None = None, method: Method = "dense", **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The documents nearest to a query, with their cosines. Filters: docs/search.md."""
        vector = await self._embedding.aembed_query(query) if self._embedding and method != "lexical" else None
        return self._read_all(
            await self._twins.concurrent.search(
                query=query if vector is None or method != "dense" else None,
                vector=vector,
                index=self.index,
                k=k,
                filter=filter,
                method=method,
            )
        )

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The documents nearest to a query."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The documents nearest to a query."""
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The documents nearest to a vector."""
        found = self._twins.sync.search(vector=embedding, index=self.index, k=k, filter=filter)
        return [document for document, _ in self._read_all(found)]

    async def asimilarity_search_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[Document]:
        """The documents nearest to a vector."""
        found = await self._twins.concurrent.search(vector=embedding, index=self.index, k=k, filter=filter)
        return [document for document, _ in self._read_all(found)]

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with texts in it; `kwargs` are the constructor's."""
        store = cls(embedding=embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """A store with texts in it; `kwargs` are the constructor's."""
        store = cls(embedding=embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: (1 + cosine) / 2

    def _read(self, stored: Hit | StoredDocument) -> Document:
        metadata = dict(stored.metadata)
        if self.rationale_key and stored.rationale:
            metadata[self.rationale_key] = stored.rationale.text
        return Document(id=stored.id, page_content=stored.text, metadata=metadata)

    def _read_all(self, found: Found) -> list[tuple[Document, float]]:
        return [(self._read(hit), hit.score) for hit in found.hits]


def _documents(
    texts: Sequence[str],
    metadatas: Sequence[dict[str, Any]] | None,
    ids: Sequence[str | None] | None,
    vectors: Sequence[Sequence[float]] | None,
) -> list[wire.Document]:
    for name, given in (("metadatas", metadatas), ("ids", ids)):
        if given and len(given) != len(texts):
            raise ValueError(f"{len(texts)} texts but {len(given)} {name}")
    return [
        wire.Document(
            (ids[i] if ids else None) or str(uuid4()),
            text,
            metadatas[i] if metadatas else None,
            vector=vectors[i] if vectors else None,
        )
        for i, text in enumerate(texts)
    ]


def _settings(vectors: Sequence[Sequence[float]] | None) -> dict[str, Any]:
    return {"dimensions": len(vectors[0])} if vectors else {}
