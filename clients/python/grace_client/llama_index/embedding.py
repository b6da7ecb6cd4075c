"""Vectors of a GRACE server for LlamaIndex."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.embeddings import BaseEmbedding

from grace_client._async.client import AsyncGraceClient
from grace_client._sync.client import GraceClient
from grace_client.answer import Mode
from grace_client.twins import Twins


class GraceEmbedding(BaseEmbedding):
    """Queries and texts are embedded each in their role.

    The server's address is part of what is serialised, so that a cache of one server's vectors is not another's. The
    key is not; a pickle, as for the workers of a pipeline, has both.
    """

    url: str | None = Field(default=None, frozen=True)
    mode: Mode = "reason"
    dimensions: int | None = None
    _twins: Twins = PrivateAttr()

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        client: GraceClient | None = None,
        async_client: AsyncGraceClient | None = None,
        **fields: Any,
    ) -> None:
        twins = Twins(url, api_key, client, async_client)
        super().__init__(**{"model_name": "grace", "embed_batch_size": 32, **fields, "url": twins.url})
        self._twins = twins

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # makes it anew of its fields, where the key is not
        self._twins = state["__pydantic_private__"]["_twins"]

    @classmethod
    def class_name(cls) -> str:
        """The name it is serialised under."""
        return "GraceEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._twins.sync.embed(query, role="query", mode=self.mode, dimensions=self.dimensions)[0].numbers

    async def _aget_query_embedding(self, query: str) -> list[float]:
        found = await self._twins.concurrent.embed(query, role="query", mode=self.mode, dimensions=self.dimensions)
        return found[0].numbers

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found = self._twins.sync.embed_each(texts, mode=self.mode, dimensions=self.dimensions)
        return [item.numbers for item in found]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found = await self._twins.concurrent.embed_each(texts, mode=self.mode, dimensions=self.dimensions)
        return [item.numbers for item in found]
