"""OpenAI's wire format; the unmodified openai-python client on a live port is the judge."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.server.conftest import Serve, Service, until


def client_of(service: Service, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="any", **options)


async def test_one_text_a_list_and_both_encodings(serve: Serve) -> None:
    service = await serve(live=True)
    async with client_of(service) as client:
        default = await client.embeddings.create(model="tiny", input="a text")  # asks for base64, decodes it
        numbers = await client.embeddings.create(model="tiny", input="a text", encoding_format="float")
        packed = await client.embeddings.create(model="tiny", input="a text", encoding_format="base64")
        listed = await client.embeddings.create(model="tiny", input=["a text", "another"], dimensions=8, user="me")
    assert default.data[0].embedding == pytest.approx(numbers.data[0].embedding, abs=1e-7)
    raw: Any = packed.data[0].embedding
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(raw), "<f4"), np.float32(numbers.data[0].embedding))
    assert (default.object, default.model, default.data[0].object) == ("list", "tiny", "embedding")
    assert default.usage.total_tokens > default.usage.prompt_tokens > 0
    assert [(item.index, len(item.embedding)) for item in listed.data] == [(0, 8), (1, 8)]


async def test_without_a_format_the_wire_carries_numbers(serve: Serve) -> None:
    service = await serve()
    reply = await service.client.post("/v1/embeddings", json={"model": "tiny", "input": "x"})
    body = reply.json()
    assert body.keys() == {"object", "data", "model", "usage"}
    assert body["data"][0].keys() == {"object", "index", "embedding"}
    assert isinstance(body["data"][0]["embedding"][0], float)
    assert body["usage"].keys() == {"prompt_tokens", "total_tokens"}


async def test_the_vector_is_the_one_of_embed(serve: Serve) -> None:
    service = await serve(cache=False)
    reply = await service.client.post("/v1/embeddings", json={"model": "tiny", "input": "x"})
    assert reply.json()["data"][0]["embedding"] == (await service.embed(input="x"))["data"][0]["embedding"]


async def test_a_question_can_be_asked_as_one(serve: Serve) -> None:
    service = await serve(live=True, cache=False)
    async with client_of(service) as client:
        reply = await client.embeddings.create(
            model="tiny", input="x", encoding_format="float", extra_body={"role": "query"}
        )
    assert reply.data[0].embedding == (await service.embed(input="x", role="query"))["data"][0]["embedding"]


async def test_mode_direct_is_the_same_as_ours(serve: Serve) -> None:
    service = await serve(live=True, cache=False)
    async with client_of(service) as client:
        reply = await client.embeddings.create(
            model="tiny", input="x", encoding_format="float", extra_body={"mode": "direct"}
        )
    assert reply.data[0].embedding == (await service.embed(input="x", mode="direct"))["data"][0]["embedding"]


async def test_rationales_come_when_asked_for(serve: Serve) -> None:
    service = await serve(live=True)
    async with client_of(service) as client:
        reply = await client.embeddings.create(model="tiny", input=["a", "b"], extra_body={"rationale": True})
    for item in reply.data:
        extra: Any = item
        assert extra.rationale["thinking"]


async def test_names_aliases_and_the_fingerprint_are_known_others_are_not(serve: Serve) -> None:
    service = await serve(live=True, model_aliases="text-embedding-3-small,other/alias")
    fingerprint = service.app.state.checkpoint.fingerprint
    async with client_of(service) as client:
        for name in ("tiny", "text-embedding-3-small", fingerprint, service.app.state.checkpoint.name):
            assert (await client.embeddings.create(model=name, input="x")).model == "tiny"
        assert [model.id async for model in client.models.list()] == ["tiny", "text-embedding-3-small", "other/alias"]
        assert (await client.models.retrieve("other/alias")).id == "other/alias"
        with pytest.raises(openai.NotFoundError) as unknown:
            await client.embeddings.create(model="text-embedding-ada-002", input="x")
        assert unknown.value.code == "model_not_found"
        assert unknown.value.param == "model"
        assert unknown.value.request_id
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("none")


@pytest.mark.parametrize("ids", [[1, 2, 3], [[1, 2], [3]]])
async def test_token_ids_are_refused_with_the_clients_switch(serve: Serve, ids: Any) -> None:
    service = await serve(live=True)
    async with client_of(service) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="check_embedding_ctx_length=False") as refused:
            await client.embeddings.create(model="tiny", input=ids)
    assert refused.value.param == "input"


async def test_a_seed_is_refused_and_other_extras_are_tolerated(serve: Serve) -> None:
    service = await serve()
    body = {"model": "tiny", "input": "x"}
    assert (await service.client.post("/v1/embeddings", json={**body, "task": "a new one"})).status_code == 200
    refused = await service.client.post("/v1/embeddings", json={**body, "seed": 1})
    assert refused.status_code == 422
    assert "seed" in refused.json()["error"]["message"]


async def test_errors_are_of_the_clients_own_classes(serve: Serve) -> None:
    service = await serve(live=True, api_keys="right")
    async with client_of(service) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.embeddings.create(model="tiny", input="x")
    async with client_of(service).with_options(api_key="right") as client:
        with pytest.raises(openai.UnprocessableEntityError):
            await client.embeddings.create(model="tiny", input=[])
        with pytest.raises(openai.UnprocessableEntityError):
            await client.embeddings.create(model="tiny", input="x", dimensions=1000)


async def test_the_client_comes_back_when_told_and_is_served(serve: Serve) -> None:
    service = await serve(
        seconds=0.4, live=True, max_running_requests=1, max_queued_requests=0, max_inputs=1, max_samples=1
    )
    loop = asyncio.get_running_loop()
    async with client_of(service, max_retries=3) as client:
        busy = asyncio.create_task(client.embeddings.create(model="tiny", input="busy"))
        await until(lambda: service.metric("grace_running_requests") == 1)
        begin = loop.time()
        reply = await client.embeddings.create(model="tiny", input="patient")
        assert reply.data
        assert loop.time() - begin >= 1  # Retry-After, not the client's own half second
        await busy
    assert service.metric("grace_rejections_total", reason="queue_full") == 1


async def test_models_are_listed_though_their_folder_is_gone(serve: Serve, model_folder: Path) -> None:
    service = await serve()
    before = (await service.client.get("/v1/models")).json()
    config = model_folder / "config.json"
    assert before["data"][0]["created"] == int(config.stat().st_mtime)
    config.rename(away := config.with_name("away.json"))
    try:
        assert (await service.client.get("/v1/models")).json() == before
    finally:
        away.rename(config)
