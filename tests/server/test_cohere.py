"""Cohere's wire formats, with its own SDK as the judge."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import cohere
import numpy as np
import pytest
from cohere.core.api_error import ApiError

from tests.server.conftest import Serve, Service, until

TEXTS = ["The river rises in the hills.", "A guild of masons built the bridge."]


def client_of(service: Service, **options: Any) -> cohere.AsyncClientV2:
    return cohere.AsyncClientV2(api_key="any", base_url=service.url, **options)


async def vector_of(service: Service, text: str, **options: Any) -> list[float]:
    reply = await service.embed(input=text, **options)
    return list(reply["data"][0]["embedding"])


async def test_documents_and_queries_get_the_vectors_of_their_roles(serve: Serve) -> None:
    service = await serve(live=True)
    client = client_of(service)
    documents = await client.embed(
        model="tiny", texts=TEXTS, input_type="search_document", embedding_types=["float", "base64"]
    )
    assert documents.embeddings.float_ == [await vector_of(service, text) for text in TEXTS]
    packed = documents.embeddings.base64 or []
    unpacked = [np.frombuffer(base64.b64decode(text), "<f4") for text in packed]
    np.testing.assert_array_equal(unpacked, np.float32(documents.embeddings.float_))
    assert documents.texts == TEXTS
    assert documents.id
    assert documents.meta is not None
    assert documents.meta.billed_units is not None
    assert documents.meta.billed_units.input_tokens > 0
    queries = await client.embed(model="tiny", texts=TEXTS[:1], input_type="search_query")
    assert queries.embeddings.float_ == [await vector_of(service, TEXTS[0], role="query")]
    assert queries.embeddings.float_ != documents.embeddings.float_[:1]


async def test_dimensions_and_truncation_are_passed_on(serve: Serve) -> None:
    service = await serve(live=True)
    client = client_of(service)
    short = await client.embed(model="tiny", texts=TEXTS, input_type="clustering", output_dimension=8)
    assert short.embeddings.float_ == [await vector_of(service, text, dimensions=8) for text in TEXTS]
    long = "word " * 999
    assert (await client.embed(model="tiny", texts=[long], input_type="classification")).embeddings.float_
    with pytest.raises(ApiError) as refused:
        await client.embed(model="tiny", texts=[long], input_type="classification", truncate="NONE")
    assert (refused.value.status_code, refused.value.body["error"]["param"]) == (413, "texts")


async def test_rationales_come_when_asked_for(serve: Serve) -> None:
    service = await serve(live=True)
    answer: Any = await client_of(service).embed(
        model="tiny",
        texts=TEXTS,
        input_type="search_document",
        request_options={"additional_body_parameters": {"rationale": True}},
    )
    assert [set(rationale) for rationale in answer.rationales] == 2 * [
        {"text", "thinking", "understanding", "tokens", "finish_reason"}
    ]


async def test_the_older_client_is_answered_as_it_expects(serve: Serve) -> None:
    """It is what LangChain's and LlamaIndex's integrations call; it sends 96 texts at a time and joins the answers."""
    service = await serve(live=True)
    client = cohere.AsyncClient(api_key="any", base_url=service.url)
    many = [f"Text number {i}." for i in range(100)]
    plain = await client.embed(model="tiny", texts=many, input_type="search_query")
    assert plain.response_type == "embeddings_floats"
    assert len(plain.embeddings) == 100
    assert plain.embeddings[99] == await vector_of(service, many[99], role="query")
    typed = await client.embed(texts=TEXTS, embedding_types=["float"])
    assert typed.response_type == "embeddings_by_type"
    assert typed.embeddings.float_ == [await vector_of(service, text) for text in TEXTS]


async def test_errors_are_of_the_sdks_own_classes_and_name_its_fields(serve: Serve) -> None:
    service = await serve(live=True, api_keys="right")
    with pytest.raises(cohere.UnauthorizedError):
        await client_of(service).embed(model="tiny", texts=TEXTS, input_type="search_query")
    client = cohere.AsyncClientV2(api_key="right", base_url=service.url)
    with pytest.raises(cohere.NotFoundError) as unknown:
        await client.embed(model="embed-v4.0", texts=TEXTS, input_type="search_query")
    assert unknown.value.body["error"]["code"] == "model_not_found"
    refused: dict[str, dict[str, Any]] = {
        "output_dimension": {"output_dimension": 999},
        "embedding_types[0]": {"embedding_types": ["int8"]},
        "truncate": {"truncate": "START"},
        "max_tokens": {"max_tokens": 9},
        "images": {"images": ["data:image/png;base64,AA=="]},
        "texts": {"texts": []},
    }
    for param, options in refused.items():
        with pytest.raises(cohere.UnprocessableEntityError) as invalid:
            await client.embed(**{"model": "tiny", "texts": TEXTS, "input_type": "search_document", **options})
        assert invalid.value.body["error"]["param"] == param


async def test_the_sdk_comes_back_when_told_and_is_served(serve: Serve) -> None:
    service = await serve(
        seconds=0.4, live=True, max_running_requests=1, max_queued_requests=0, max_inputs=1, max_samples=1
    )
    loop = asyncio.get_running_loop()
    client = client_of(service, max_retries=3)
    busy = asyncio.create_task(service.embed(input="busy"))
    await until(lambda: service.metric("grace_running_requests") == 1)
    begin = loop.time()
    assert (await client.embed(model="tiny", texts=["patient"], input_type="search_query")).embeddings.float_
    assert loop.time() - begin >= 1  # Retry-After
    await busy
    assert service.metric("grace_rejections_total", reason="queue_full") >= 1
