"""Components that search a `GraceDocumentStore`: by words, which the server embeds, or by a vector."""

from __future__ import annotations

from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from grace_client.answer import Method
from grace_client.haystack.document_store import GraceDocumentStore


@component
class GraceRetriever:
    """Finds documents for a question; the server embeds it. A filter at run time replaces that of the init."""

    def __init__(
        self,
        document_store: GraceDocumentStore,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        method: Method = "dense",
    ) -> None:
        self.document_store, self.top_k, self.filters, self.method = document_store, top_k, filters, method

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline file keeps."""
        return default_to_dict(
            self,
            document_store=self.document_store.to_dict(),
            top_k=self.top_k,
            filters=self.filters,
            method=self.method,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GraceRetriever:
        """From what `to_dict` wrote."""
        return default_from_dict(cls, _with_store(data))

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None) -> dict[str, Any]:
        """The documents nearest to a question, best first."""
        found = self.document_store.search(
            query, top_k=top_k or self.top_k, filters=filters or self.filters, method=self.method
        )
        return {"documents": found}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The documents nearest to a question, best first."""
        found = await self.document_store.search_async(
            query, top_k=top_k or self.top_k, filters=filters or self.filters, method=self.method
        )
        return {"documents": found}


@component
class GraceEmbeddingRetriever:
    """Finds documents for a vector. A filter at run time replaces that of the init."""

    def __init__(
        self, document_store: GraceDocumentStore, top_k: int = 10, filters: dict[str, Any] | None = None
    ) -> None:
        self.document_store, self.top_k, self.filters = document_store, top_k, filters

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline file keeps."""
        return default_to_dict(
            self, document_store=self.document_store.to_dict(), top_k=self.top_k, filters=self.filters
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GraceEmbeddingRetriever:
        """From what `to_dict` wrote."""
        return default_from_dict(cls, _with_store(data))

    @component.output_types(documents=list[Document])
    def run(
        self, query_embedding: list[float], top_k: int | None = None, filters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The documents nearest to a vector, best first."""
        found = self.document_store.search(
            vector=query_embedding, top_k=top_k or self.top_k, filters=filters or self.filters
        )
        return {"documents": found}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query_embedding: list[float], top_k: int | None = None, filters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The documents nearest to a vector, best first."""
        found = await self.document_store.search_async(
            vector=query_embedding, top_k=top_k or self.top_k, filters=filters or self.filters
        )
        return {"documents": found}


def _with_store(data: dict[str, Any]) -> dict[str, Any]:
    parameters = dict(data["init_parameters"])
    if isinstance(parameters["document_store"], dict):
        parameters["document_store"] = GraceDocumentStore.from_dict(parameters["document_store"])
    return {**data, "init_parameters": parameters}
