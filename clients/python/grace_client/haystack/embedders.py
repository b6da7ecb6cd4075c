"""A component that embeds a question, and one that embeds documents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret

from grace_client._async.client import AsyncGraceClient
from grace_client._sync.client import GraceClient
from grace_client.answer import Mode
from grace_client.haystack.server import DEFAULT_KEY, Server
from grace_client.results import Embedding, Embeddings


@component
class GraceTextEmbedder:
    """Embeds what is searched with."""

    def __init__(
        self,
        url: str | None = None,
        api_key: Secret | None = DEFAULT_KEY,
        mode: Mode = "reason",
        dimensions: int | None = None,
        *,
        client: GraceClient | None = None,
        async_client: AsyncGraceClient | None = None,
    ) -> None:
        self.mode, self.dimensions = mode, dimensions
        self._server = Server(url, api_key, client, async_client)

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline file keeps."""
        return default_to_dict(self, **self._server.written_down(), mode=self.mode, dimensions=self.dimensions)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GraceTextEmbedder:
        """From what `to_dict` wrote."""
        return default_from_dict(cls, data)

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Embed a question; `meta` holds the model, the usage and the rationale."""
        _check_text(text)
        client = self._server.clients.sync
        return _answer(client.embed(text, role="query", mode=self.mode, dimensions=self.dimensions))

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Embed a question; `meta` holds the model, the usage and the rationale."""
        _check_text(text)
        client = self._server.clients.concurrent
        return _answer(await client.embed(text, role="query", mode=self.mode, dimensions=self.dimensions))


@component
class GraceDocumentEmbedder:
    """Embeds documents. With a `GraceDocumentStore` it is not needed: the server embeds what comes without a vector.

    `meta_fields_to_embed` are put before the content. `rationale_key` is the meta field that takes the rationale.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: Secret | None = DEFAULT_KEY,
        mode: Mode = "reason",
        dimensions: int | None = None,
        batch_size: int = 32,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        rationale_key: str | None = None,
        *,
        client: GraceClient | None = None,
        async_client: AsyncGraceClient | None = None,
    ) -> None:
        self.mode, self.dimensions, self.batch_size = mode, dimensions, batch_size
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self.rationale_key = rationale_key
        self._server = Server(url, api_key, client, async_client)

    def to_dict(self) -> dict[str, Any]:
        """What a pipeline file keeps."""
        return default_to_dict(
            self,
            **self._server.written_down(),
            mode=self.mode,
            dimensions=self.dimensions,
            batch_size=self.batch_size,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            rationale_key=self.rationale_key,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GraceDocumentEmbedder:
        """From what `to_dict` wrote."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """The same documents with their embeddings; those given are left as they are."""
        items = self._server.clients.sync.embed_each(
            self._texts(documents), mode=self.mode, dimensions=self.dimensions, batch_size=self.batch_size
        )
        return self._with(documents, items)

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """The same documents with their embeddings; those given are left as they are."""
        items = await self._server.clients.concurrent.embed_each(
            self._texts(documents), mode=self.mode, dimensions=self.dimensions, batch_size=self.batch_size
        )
        return self._with(documents, items)

    def _texts(self, documents: list[Document]) -> list[str]:
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise TypeError("GraceDocumentEmbedder takes a list of documents; for a text there is GraceTextEmbedder")
        return [
            self.embedding_separator.join(
                [str(d.meta[f]) for f in self.meta_fields_to_embed if d.meta.get(f) is not None] + [d.content or ""]
            )
            for d in documents
        ]

    def _with(self, documents: list[Document], items: list[Embedding]) -> dict[str, Any]:
        return {"documents": [self._embedded(d, item) for d, item in zip(documents, items, strict=True)]}

    def _embedded(self, document: Document, item: Embedding) -> Document:
        meta = dict(document.meta)
        if self.rationale_key and item.rationale:
            meta[self.rationale_key] = item.rationale.text
        return replace(document, embedding=item.numbers, meta=meta)


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise TypeError("GraceTextEmbedder takes a text; for a list of documents there is GraceDocumentEmbedder")


def _answer(embeddings: Embeddings) -> dict[str, Any]:
    [item] = embeddings
    return {
        "embedding": item.numbers,
        "meta": {
            "model": embeddings.model,
            "usage": embeddings.usage.model_dump(),
            "rationale": item.rationale.text if item.rationale else None,
        },
    }
