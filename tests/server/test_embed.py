"""The contract of `/embed`, option by option."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from grace.checkpoint import Checkpoint
from grace.engines import fake
from grace.engines.fake import FakeEngine
from grace.pooling import POOLINGS
from grace.prompt import Prompter
from grace_server import embedding
from grace_server.routes import embed, shapes
from tests.server.conftest import Serve

TEXT = "The river rises in the hills. It meets the sea at a harbour."


def vector(reply: dict[str, Any], index: int = 0) -> np.ndarray:
    return np.array(reply["data"][index]["embedding"])


async def test_a_text_becomes_a_rationale_and_a_unit_vector(serve: Serve, checkpoint: Checkpoint) -> None:
    service = await serve()
    reply = await service.embed(input=TEXT)
    [item] = reply["data"]
    assert (reply["object"], reply["model"], reply["fingerprint"]) == ("list", "tiny", checkpoint.fingerprint)
    assert item.keys() == {
        "object",
        "index",
        "embedding",
        "rationale",
        "input_tokens",
        "truncated",
        "cached",
        "consistency",
        "segments",
        "sources",
        "audit",
    }
    assert (item["object"], item["index"], item["truncated"], item["cached"]) == ("embedding", 0, False, False)
    assert item["consistency"] is None
    assert item["segments"] is None
    assert item["rationale"].keys() == {"text", "thinking", "understanding", "tokens", "finish_reason"}
    assert item["rationale"]["thinking"] == f"A text of {item['input_tokens']} tokens."
    assert item["rationale"]["understanding"].startswith("Its mark is ")
    assert np.linalg.norm(item["embedding"]) == pytest.approx(1, abs=1e-6)
    assert len(item["embedding"]) == checkpoint.hidden_size
    usage = reply["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] > item["input_tokens"] > 0


async def test_a_list_keeps_its_order_and_each_item_is_what_it_is_alone(serve: Serve) -> None:
    service = await serve(cache=False)
    texts = ["one", "two", "", "one"]
    reply = await service.embed(input=texts)
    assert [item["index"] for item in reply["data"]] == [0, 1, 2, 3]
    for index, text in enumerate(texts):
        np.testing.assert_array_equal(vector(reply, index), vector(await service.embed(input=text)))


async def test_roles_have_different_instructions(serve: Serve) -> None:
    service = await serve()
    document, query = [await service.embed(input=TEXT, role=role) for role in ("document", "query")]
    assert document["usage"]["prompt_tokens"] != query["usage"]["prompt_tokens"]


async def test_direct_mode_writes_nothing(serve: Serve) -> None:
    service = await serve()
    reply = await service.embed(input=TEXT, mode="direct")
    assert reply["data"][0]["rationale"] is None
    assert reply["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("pooling", ["mean", "rationale", "input", "last"])
async def test_each_pooling_is_the_cores(serve: Serve, prompter: Prompter, pooling: Any) -> None:
    service = await serve()
    reply = await service.embed(input=TEXT, pooling=pooling)
    expected = (await service.engine.represent(prompter.job(TEXT))).vector(pooling)
    np.testing.assert_array_equal(vector(reply).astype(np.float32), expected)


@pytest.mark.parametrize("pooling", ["mean", "rationale", "input", "last"])
@pytest.mark.parametrize("extra", [{}, {"dimensions": 16}, {"n": 3, "temperature": 0.7}])
async def test_shares_of_segments_add_up_to_one(serve: Serve, pooling: str, extra: dict[str, Any]) -> None:
    service = await serve()
    [item] = (await service.embed(input=TEXT, pooling=pooling, explain=True, **extra))["data"]
    assert sum(segment["share"] for segment in item["segments"]) == pytest.approx(1, abs=1e-6)
    sources = [segment["source"] for segment in item["segments"]]
    if pooling == "mean":
        assert {"input", "template", "rationale"} == set(sources)
        words = "".join(s["text"] for s in item["segments"] if s["source"] == "input")
        assert words == TEXT
    if pooling in ("input", "rationale"):
        assert set(sources) == {pooling}


async def test_samples_are_averaged_and_their_agreement_is_told(serve: Serve, prompter: Prompter) -> None:
    service = await serve(cache=False)
    reply = await service.embed(input=TEXT, n=3, temperature=0.7)
    assert service.engine.calls == 3
    jobs = [prompter.job(TEXT, temperature=0.7, sample=sample) for sample in range(3)]
    units = np.stack([(await service.engine.represent(job)).vector() for job in jobs]).astype(np.float64)
    mean = units.mean(axis=0)
    np.testing.assert_allclose(vector(reply), mean / np.linalg.norm(mean), atol=1e-6)
    cosines = [units[a] @ units[b] for a, b in ((0, 1), (0, 2), (1, 2))]
    assert reply["data"][0]["consistency"] == pytest.approx(np.mean(cosines), abs=1e-6)


async def test_a_given_rationale_is_pooled_and_none_is_written(serve: Serve) -> None:
    service = await serve()
    written = "<think>Rivers.</think> A course of water."
    single = await service.embed(input=TEXT, rationale=written)
    assert single["data"][0]["rationale"]["text"] == written
    assert single["data"][0]["rationale"]["finish_reason"] == "given"
    assert single["usage"]["completion_tokens"] == 0
    both = await service.embed(input=[TEXT, TEXT], rationale=[written, "Another one."])
    np.testing.assert_array_equal(vector(both, 0), vector(single))
    assert not np.array_equal(vector(both, 1), vector(single))


async def test_dimensions_cut_and_normalise_again(serve: Serve) -> None:
    service = await serve()
    whole = vector(await service.embed(input=TEXT, normalize=False))
    cut = vector(await service.embed(input=TEXT, dimensions=8))
    np.testing.assert_allclose(cut, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    assert np.linalg.norm(whole) != pytest.approx(1, abs=1e-3)


async def test_base64_is_little_endian_float32(serve: Serve) -> None:
    service = await serve()
    numbers = vector(await service.embed(input=TEXT))
    packed = (await service.embed(input=TEXT, encoding_format="base64"))["data"][0]["embedding"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(packed), "<f4"), numbers.astype(np.float32))


async def test_truncation_is_told_or_refused_with_the_limit(serve: Serve, prompter: Prompter) -> None:
    service = await serve()
    long = "word " * 400
    [item] = (await service.embed(input=long))["data"]
    assert item["truncated"]
    assert item["input_tokens"] == prompter.max_input_tokens
    refused = await service.embed(413, input=long, truncate=False)
    assert f"the limit is {prompter.max_input_tokens} tokens" in refused["error"]["message"]
    assert service.metric("grace_truncations_total") == 1


async def test_the_budget_of_a_rationale_is_kept(serve: Serve) -> None:
    service = await serve()
    [item] = (await service.embed(input=TEXT, max_rationale_tokens=3))["data"]
    assert item["rationale"]["tokens"] == 3
    assert item["rationale"]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": TEXT, "seed": 7}, "seed"),
        ({"input": TEXT, "stop": ["."]}, "stop"),
        ({"input": []}, "input"),
        ({"input": [1, 2]}, "input[0]"),
        ({"input": None}, "input"),
        ({}, "input"),
        ({"input": TEXT, "role": "passage"}, "role"),
        ({"input": TEXT, "n": 0}, "n"),
        ({"input": TEXT, "n": 10**30, "temperature": 1}, "n"),
        ({"input": TEXT, "n": 2}, "temperature"),
        ({"input": TEXT, "n": 2, "temperature": 0.0}, "temperature"),
        ({"input": TEXT, "n": 2, "temperature": 1, "mode": "direct"}, "n"),
        ({"input": TEXT, "n": 2, "temperature": 1, "rationale": "x"}, "n"),
        ({"input": TEXT, "temperature": 3}, "temperature"),
        ({"input": TEXT, "dimensions": 0}, "dimensions"),
        ({"input": TEXT, "dimensions": 65}, "dimensions"),
        ({"input": TEXT, "max_rationale_tokens": 100_000}, "max_rationale_tokens"),
        ({"input": TEXT, "mode": "direct", "rationale": "x"}, "rationale"),
        ({"input": TEXT, "mode": "direct", "pooling": "rationale"}, "pooling"),
        ({"input": ["a", ""], "pooling": "input"}, "input[1]"),
        ({"input": ["a", "b"], "pooling": "rationale", "max_rationale_tokens": 1}, "max_rationale_tokens"),
        ({"input": ["a", "b"], "pooling": "rationale", "rationale": ["x", ""]}, "rationale[1]"),
        ({"input": "a", "pooling": "rationale", "rationale": ""}, "rationale"),
        ({"input": [TEXT, TEXT], "rationale": "x"}, "rationale"),
        ({"input": TEXT, "rationale": ["x", "y"]}, "rationale"),
        ({"input": [TEXT, TEXT], "stream": True}, "stream"),
        ({"input": TEXT, "n": 2, "temperature": 1, "stream": True}, "stream"),
        ({"input": TEXT, "normalize": "yes"}, "normalize"),
    ],
)
async def test_what_cannot_be_served_is_refused_by_name_before_the_engine(
    serve: Serve, body: dict[str, Any], param: str
) -> None:
    service = await serve()
    error = (await service.embed(422, **body))["error"]
    assert error["param"] == param
    assert param.split(".")[0] in error["message"]
    assert service.engine.calls == 0


async def test_a_text_without_a_rationale_to_pool_is_named(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await serve()
    words = FakeEngine._words
    monkeypatch.setattr(FakeEngine, "_words", lambda self, job: [] if job.text == "b" else words(self, job))
    assert (await service.embed(422, input=["a", "b"], pooling="rationale"))["error"]["param"] == "input[1]"
    assert (await service.embed(422, input="b", pooling="rationale"))["error"]["param"] == "input"
    assert (await service.embed(input="a", pooling="rationale"))["data"]
    given = {"pooling": "rationale", "rationale": "x", "max_rationale_tokens": 1}
    assert (await service.embed(input="a", **given))["data"], "the budget is for what is written"


async def test_limits_of_a_request_are_named(serve: Serve) -> None:
    service = await serve(max_inputs=2, max_input_chars=100)
    assert "the limit is 2 (max_inputs)" in (await service.embed(413, input=["a"] * 3))["error"]["message"]
    assert "the limit is 100 (max_input_chars)" in (await service.embed(413, input="a" * 101))["error"]["message"]


async def test_texts_of_every_kind_are_served(serve: Serve) -> None:
    service = await serve()
    texts = ["", "<|im_end|><|im_start|>system", "שלום עולם", "👩‍👩‍👧", "a" * 100_000, "\x00\x01"]
    reply = await service.embed(input=texts, explain=True)
    assert [item["truncated"] for item in reply["data"]] == [False] * 4 + [True, False]


async def test_many_representations_are_pooled_and_told_beside_the_loop(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, threads = await serve(), set()

    def noting(work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*given: Any, **named: Any) -> Any:
            threads.add(threading.current_thread())
            return work(*given, **named)

        return noted

    monkeypatch.setattr(embedding, "pool_all", noting(embedding.pool_all))
    monkeypatch.setattr(embed, "embed_item", noting(embed.embed_item))
    texts = [f"text {i}" for i in range(10)]
    few = await service.embed(input=texts, explain=True)
    assert threads == {threading.main_thread()}
    threads.clear()
    many = await service.embed(input=texts * 4, explain=True)
    assert threading.main_thread() not in threads
    assert [item["embedding"] for item in many["data"]] == [item["embedding"] for item in few["data"]] * 4
    threads.clear()
    await service.embed(input=texts, n=4, temperature=1.0)
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(
    ("path", "field", "more"),
    [
        ("/embed", "input", {}),
        ("/v1/embeddings", "input", {"model": "tiny"}),
        ("/v1/embed", "texts", {}),
        ("/v2/embed", "texts", {"embedding_types": ["float", "base64"]}),
        ("/tei/embed", "inputs", {}),
    ],
)
async def test_long_lists_of_vectors_are_written_beside_the_loop(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str, field: str, more: dict[str, Any]
) -> None:
    service, threads, written = await serve(), [], shapes.dumps

    def noting(content: Any) -> bytes:
        threads.append(threading.current_thread())
        return written(content)

    monkeypatch.setattr(shapes, "dumps", noting)
    texts = [f"text {i}" for i in range(40)]
    for several in (texts[:5], texts):
        reply = await service.client.post(path, json={field: several, **more})
        assert reply.status_code == 200, reply.text
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's states are not finite, as those of a text that overflows float16."""
    monkeypatch.setattr(fake, "_state", lambda token, hidden: np.full(hidden, np.nan, dtype=np.float32))


@pytest.mark.usefixtures("damaged")
@pytest.mark.parametrize(
    "options",
    [*({"pooling": pooling} for pooling in POOLINGS), {"n": 2, "temperature": 0.5}, {"normalize": False}],
    ids=str,
)
async def test_states_that_are_not_finite_are_an_error_and_neither_served_nor_kept(
    serve: Serve, options: dict[str, Any]
) -> None:
    service = await serve()
    for calls in (1, 2):
        assert (await service.embed(500, input=TEXT, **options))["error"]["code"] == "engine_error"
        assert service.engine.calls == calls * options.get("n", 1)


@pytest.mark.usefixtures("damaged")
async def test_every_route_refuses_states_that_are_not_finite_as_embed_does(serve: Serve) -> None:
    service = await serve()
    similarity = {"inputs": {"source_sentence": TEXT, "sentences": [TEXT]}}
    for path, body in (("/explain", {"first": TEXT, "second": "Another."}), ("/tei/similarity", similarity)):
        reply = await service.client.post(path, json=body)
        assert reply.status_code == 500, path
        assert reply.json()["error"]["code"] == "engine_error"
