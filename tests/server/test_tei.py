"""Text Embeddings Inference's wire format, with the clients that its users have as the judges."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import (
    HuggingFaceAPIDocumentEmbedder,
    HuggingFaceAPITextEmbedder,
)
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import HfHubHTTPError
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from tei_client import HttpClient

from tests.server.conftest import Serve, Service

TEXTS = ["The river rises in the hills.", "A guild of masons built the bridge."]


async def vectors_of(service: Service, **options: Any) -> list[list[float]]:
    return [item["embedding"] for item in (await service.embed(**{"input": TEXTS, **options}))["data"]]


@pytest.mark.parametrize("path", ["/tei", "/tei/", "/tei/embed"])
async def test_huggingface_hubs_client_gets_the_vectors_of_embed(serve: Serve, path: str) -> None:
    service = await serve(live=True)
    async with AsyncInferenceClient(model=service.url + path) as client:
        several = await client.feature_extraction(TEXTS)  # type: ignore[arg-type]
        one = await client.feature_extraction(TEXTS[0], prompt_name="query", normalize=False, truncate=True)
        few = await client.feature_extraction(TEXTS[0], dimensions=8)
    np.testing.assert_array_equal(several, np.float32(await vectors_of(service)))
    unscaled = await vectors_of(service, input=TEXTS[0], role="query", normalize=False)
    np.testing.assert_array_equal(one, np.float32(unscaled))
    assert few.shape == (1, 8)


async def test_similarity_is_the_cosine_of_the_vectors(serve: Serve) -> None:
    service = await serve(live=True)
    async with AsyncInferenceClient(model=f"{service.url}/tei/similarity") as client:
        scores = await client.sentence_similarity(TEXTS[0], [*TEXTS, "Bread is baked at night."])
    first, second = np.array(await vectors_of(service))
    assert scores[:2] == pytest.approx([1.0, first @ second], abs=1e-6)
    assert len(scores) == 3


async def test_no_similarity_is_beyond_1(serve: Serve) -> None:
    service = await serve()
    for text in ["", "a", *TEXTS, *map(str, range(20))]:
        body = {"inputs": {"source_sentence": text, "sentences": [text]}}
        [score] = (await service.client.post("/tei/similarity", json=body)).json()
        assert 1 - 1e-12 < score <= 1


async def test_haystacks_embedders_work_from_the_base_url(serve: Serve) -> None:
    service = await serve(live=True, api_keys="right")
    service.client.headers["authorization"] = "Bearer right"
    options: Any = {
        "api_type": "text_embeddings_inference",
        "api_params": {"url": f"{service.url}/tei"},
        "token": Secret.from_token("right"),
        "normalize": True,  # it asks for vectors as they are, unless told
    }
    embedded = await HuggingFaceAPIDocumentEmbedder(**options).run_async([Document(content=text) for text in TEXTS])
    expected = np.float32(await vectors_of(service))
    np.testing.assert_array_equal(np.float32([d.embedding for d in embedded["documents"]]), expected)
    asked = await HuggingFaceAPITextEmbedder(**options).run_async(TEXTS[0])
    np.testing.assert_array_equal(np.float32(asked["embedding"]), expected[0])


async def test_llama_indexs_embedding_works(serve: Serve) -> None:
    service = await serve(live=True)
    embedding = TextEmbeddingsInference(model_name="tiny", base_url=f"{service.url}/tei")
    assert await embedding.aget_text_embedding_batch(TEXTS) == await vectors_of(service)
    assert await asyncio.to_thread(embedding.get_query_embedding, TEXTS[0]) == (await vectors_of(service))[0]


async def test_a_client_that_asks_what_is_served_first_is_told(serve: Serve) -> None:
    service = await serve(live=True)
    client = HttpClient(f"{service.url}/tei")
    info = await client.async_info()
    assert info.server_model_type == "embedding"
    assert info.max_client_batch_size == service.settings.max_inputs
    assert await asyncio.to_thread(client.embed, TEXTS, prompt_name="query") == await vectors_of(service, role="query")


async def test_what_cannot_be_had_here_is_refused_by_its_name(serve: Serve) -> None:
    service = await serve()
    refused: dict[str, dict[str, Any]] = {
        "inputs": {"inputs": [[1, 2, 3]]},
        "prompt_name": {"prompt_name": "passage"},
        "truncation_direction": {"truncation_direction": "left"},
        "dimensions": {"dimensions": 999},
    }
    for param, options in refused.items():
        reply = await service.client.post("/tei/embed", json={"inputs": TEXTS, **options})
        assert (reply.status_code, reply.json()["error"]["param"]) == (422, param)
    for path in ("embed_all", "embed_sparse", "predict", "rerank", "tokenize", "decode"):
        assert (await service.client.post(f"/tei/{path}", json={"inputs": TEXTS})).status_code == 404


async def test_limits_are_said_in_its_words(serve: Serve) -> None:
    service = await serve(live=True, max_inputs=2)
    async with AsyncInferenceClient(model=f"{service.url}/tei") as client:
        with pytest.raises(HfHubHTTPError, match=r"the limit is 2 \(max_inputs\)") as many:
            await client.feature_extraction(3 * TEXTS)  # type: ignore[arg-type]
        assert many.value.response.status_code == 413
        with pytest.raises(HfHubHTTPError, match="tokens long") as long:
            await client.feature_extraction("word " * 999, truncate=False)
    assert long.value.response.json()["error"]["param"] == "inputs"
