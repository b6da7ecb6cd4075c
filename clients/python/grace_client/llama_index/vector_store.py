"""An index of a GRACE server as LlamaIndex's vector store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.schema import BaseNode, MetadataMode, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)
from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict

from grace_client import wire
from grace_client._async.client import AsyncGraceClient
from grace_client._sync.client import GraceClient
from grace_client.answer import Method
from grace_client.errors import IndexNotFound
from grace_client.llama_index.filters import to_server
from grace_client.results import Found, Hit, StoredDocument
from grace_client.twins import Twins
from grace_client.upload import check

_METHODS: dict[VectorStoreQueryMode, Method] = {
    VectorStoreQueryMode.DEFAULT: "dense",
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.TEXT_SEARCH: "lexical",
    VectorStoreQueryMode.SPARSE: "lexical",
}
_NODE_ID = "_node_id"
_NODE_CONTENT = "_node_content"  # LlamaIndex's own, in which a node is kept whole
_SLICE, _SLICE_CHARS = 200, 2**14  # ids asked for at once, and what they take in a URL, of which 64 KiB get through


class GraceVectorStore(BasePydanticVectorStore):
    """An index of a GRACE server.

    Nodes are stored under the embeddings they come with. With `server_embeds` the server embeds their texts and the
    queries itself and keeps the rationales; `MockEmbedding(1)` as `embed_model` then spares the double work.
    `rationale_key` is the metadata key in which found nodes carry their rationale. An index that is not there is
    created by the first write. Documents that were written without LlamaIndex are found as text nodes.
    """

    stores_text: bool = True
    url: str | None = Field(default=None, frozen=True)
    index: str = "default"
    server_embeds: bool = False
    rationale_key: str | None = None
    _twins: Twins = PrivateAttr()

    def __init__(
        self,
        index: str = "default",
        *,
        url: str | None = None,
        api_key: str | None = None,
        server_embeds: bool = False,
        rationale_key: str | None = None,
        client: GraceClient | None = None,
        async_client: AsyncGraceClient | None = None,
    ) -> None:
        twins = Twins(url, api_key, client, async_client)
        super().__init__(
            stores_text=True,
            is_embedding_query=not server_embeds,
            url=twins.url,  # type: ignore[call-arg]  # fields of this class, which the base's signature does not name
            index=index,
            server_embeds=server_embeds,
            rationale_key=rationale_key,
        )
        self._twins = twins

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._twins = state["__pydantic_private__"]["_twins"]

    @classmethod
    def class_name(cls) -> str:
        """The name it is serialised under."""
        return "GraceVectorStore"

    @property
    def client(self) -> GraceClient:
        """The synchronous client behind it."""
        return self._twins.sync

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write nodes and wait until they can be found; their ids.

        Raises:
            GraceError: some could not be embedded; it names the first. The others can be found.
        """
        documents = [self._document(node) for node in nodes]
        client = self._twins.sync
        try:
            uploaded = client.documents.upload(self.index, documents)
        except IndexNotFound:
            client.indexes.create(self.index, _settings(documents))
            uploaded = client.documents.upload(self.index, documents)
        check(uploaded)
        return [document.id for document in documents]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write nodes and wait until they can be found; their ids.

        Raises:
            GraceError: some could not be embedded; it names the first. The others can be found.
        """
        documents = [self._document(node) for node in nodes]
        client = self._twins.concurrent
        try:
            uploaded = await client.documents.upload(self.index, documents)
        except IndexNotFound:
            await client.indexes.create(self.index, _settings(documents))
            uploaded = await client.documents.upload(self.index, documents)
        check(uploaded)
        return [document.id for document in documents]

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Nodes by their ids, a filter, or both. With both, only nodes that LlamaIndex wrote.

        Each id that is no node's costs a request of its own: it may be a document of another client.
        """
        documents = self._twins.sync.documents
        found = [
            one
            for some in _slices(node_ids)
            for one in documents.list(self.index, filter=to_server(filters, **{_NODE_ID: some}))
        ]
        if node_ids and not _some(filters):
            missing = set(node_ids).difference(("", *(one.id for one in found)))
            found += documents.get_each(self.index, missing).values()
        return [self._node(one) for one in found]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Nodes by their ids, a filter, or both. With both, only nodes that LlamaIndex wrote.

        Each id that is no node's costs a request of its own: it may be a document of another client.
        """
        documents = self._twins.concurrent.documents
        found = [
            one
            for some in _slices(node_ids)
            async for one in documents.list(self.index, filter=to_server(filters, **{_NODE_ID: some}))
        ]
        if node_ids and not _some(filters):
            missing = set(node_ids).difference(("", *(one.id for one in found)))
            found += (await documents.get_each(self.index, missing)).values()
        return [self._node(one) for one in found]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        self._twins.sync.documents.delete(self.index, filter=to_server(None, ref_doc_id=[ref_doc_id]))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document."""
        await self._twins.concurrent.documents.delete(self.index, filter=to_server(None, ref_doc_id=[ref_doc_id]))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by their ids, a filter, or both. With neither, nothing: that is `clear`.

        With both, only nodes that LlamaIndex wrote.
        """
        if chosen := _chosen(node_ids, filters):
            self._twins.sync.documents.delete(self.index, **chosen)

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by their ids, a filter, or both. With neither, nothing: that is `clear`.

        With both, only nodes that LlamaIndex wrote.
        """
        if chosen := _chosen(node_ids, filters):
            await self._twins.concurrent.documents.delete(self.index, **chosen)

    def clear(self) -> None:
        """Delete every node."""
        self._twins.sync.documents.delete_all(self.index)

    async def aclear(self) -> None:
        """Delete every node."""
        await self._twins.concurrent.documents.delete_all(self.index)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to a query, in mode `default`, `hybrid`, `text_search` or `sparse`."""
        return self._result(self._twins.sync.search(**self._question(query)))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to a query, in mode `default`, `hybrid`, `text_search` or `sparse`."""
        return self._result(await self._twins.concurrent.search(**self._question(query)))

    def _document(self, node: BaseNode) -> wire.Document:
        metadata = {**node_to_metadata_dict(node, remove_text=True), _NODE_ID: node.node_id}
        text = node.get_content(metadata_mode=MetadataMode.NONE)
        return wire.Document(node.node_id, text, metadata, vector=None if self.server_embeds else node.get_embedding())

    def _node(self, stored: Hit | StoredDocument) -> BaseNode:
        node: BaseNode
        if _NODE_CONTENT in stored.metadata:
            node = metadata_dict_to_node(stored.metadata, text=stored.text)
        else:
            node = TextNode(id_=stored.id, text=stored.text, metadata=dict(stored.metadata))
        if self.rationale_key and stored.rationale:
            node.metadata[self.rationale_key] = stored.rationale.text
        return node

    def _question(self, query: VectorStoreQuery) -> dict[str, Any]:
        if query.mode not in _METHODS:
            raise NotImplementedError(f"GraceVectorStore has no query mode {query.mode.value!r}")
        if query.alpha is not None:
            raise NotImplementedError("GraceVectorStore fuses by rank: there is no alpha")
        method = _METHODS[query.mode]
        vector = None if self.server_embeds or method == "lexical" else query.query_embedding
        return {
            "query": query.query_str if vector is None or method != "dense" else None,
            "vector": vector,
            "index": self.index,
            "k": (query.hybrid_top_k if method == "hybrid" else None) or query.similarity_top_k,
            "method": method,
            # LlamaIndex passes empty lists where it means no restriction.
            "filter": to_server(
                query.filters, **{_NODE_ID: query.node_ids or None, "ref_doc_id": query.doc_ids or None}
            ),
        }

    def _result(self, found: Found) -> VectorStoreQueryResult:
        return VectorStoreQueryResult(
            nodes=[self._node(hit) for hit in found.hits],
            similarities=[hit.score for hit in found.hits],
            ids=[hit.id for hit in found.hits],
        )


def _some(filters: MetadataFilters | None) -> bool:
    return filters is not None and bool(filters.filters)


def _chosen(node_ids: list[str] | None, filters: MetadataFilters | None) -> dict[str, Any]:
    """Which documents to delete, as the client takes it; empty for none."""
    if node_ids and not _some(filters):
        return {"ids": node_ids}  # a node's id is that of its document, whoever wrote it
    filter = to_server(filters, **{_NODE_ID: node_ids})
    return {"filter": filter} if filter else {}


def _slices(ids: Sequence[str] | None) -> Iterator[Sequence[str] | None]:
    """Ids in the order in which the server lists them, no more at once than a URL holds. None and [] are one slice."""
    if not ids:
        yield ids
        return
    taken: list[str] = []
    chars = 0
    for id in sorted(set(ids)):
        more = len(quote(json.dumps(id)))
        if taken and (len(taken) == _SLICE or chars + more > _SLICE_CHARS):
            yield taken
            taken, chars = [], 0
        taken.append(id)
        chars += more
    yield taken


def _settings(documents: Sequence[wire.Document]) -> dict[str, Any]:
    given = next((one.vector for one in documents if one.vector is not None), None)
    return {} if given is None else {"dimensions": len(given)}
