"""Embedding and explaining, through both clients, against the real application."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grace_client import ConnectionFailed, Document, GraceClient, InvalidValue, TooLarge
from tests.clients.python.both import Both
from tests.clients.python.conftest import Client
from tests.clients.python.house import House

TEXT = "The river rises in the hills. It meets the sea at a harbour."


async def test_a_text_comes_back_with_its_rationale_and_its_vector(client: Both) -> None:
    embeddings = await client("embed", TEXT, explain=True)
    [item] = embeddings
    assert item.rationale.thinking
    assert item.vector.shape == (64,)
    assert np.linalg.norm(item.vector) == pytest.approx(1, abs=1e-6)
    assert sum(segment.share for segment in item.segments) == pytest.approx(1, abs=1e-5)
    assert embeddings.usage.total_tokens > item.rationale.tokens > 0


async def test_the_array_is_a_view_of_what_came_and_equals_the_numbers_on_the_wire(client: Both, house: House) -> None:
    item = (await client("embed", TEXT))[0]
    assert item.vector.base is not None
    assert not item.vector.flags.writeable
    assert item.vector.dtype == np.dtype("<f4")
    with GraceClient("http://grace", transport=house.transport) as sync:
        floats = sync.http.request("POST", "/embed", body={"input": TEXT}).json()["data"][0]["embedding"]
    np.testing.assert_array_equal(item.vector, np.float32(floats))
    assert item.numbers == pytest.approx(floats, abs=1e-7)


async def test_every_option_reaches_the_server(client: Both, house: House) -> None:
    embeddings = await client(
        "embed",
        [TEXT, "Another."],
        role="query",
        pooling="rationale",
        max_rationale_tokens=9,
        temperature=0.5,
        n=2,
        dimensions=8,
        normalize=False,
        truncate=False,
        explain=True,
    )
    assert embeddings.vectors.shape == (2, 8)
    assert embeddings[0].consistency is not None
    sent = json.loads(house.requests[-1].content)
    assert (sent["temperature"], sent["max_rationale_tokens"], sent["truncate"]) == (0.5, 9, False)
    long = await client("embed", TEXT, normalize=False)
    assert abs(np.linalg.norm(long[0].vector) - 1) > 1e-3
    given = await client("embed", [TEXT], rationale=["It is about water."])
    assert (given[0].rationale.text, given[0].rationale.finish_reason) == ("It is about water.", "given")
    direct = await client("embed", TEXT, mode="direct")
    assert direct[0].rationale is None


async def test_a_stream_gives_the_rationale_in_pieces_and_then_the_same_embedding(client: Both) -> None:
    pieces: list[str] = []
    streamed = await client.embed_stream(TEXT, pieces.append, explain=True)
    whole = await client("embed", TEXT, explain=True)
    assert "".join(pieces) == whole[0].rationale.text == streamed[0].rationale.text
    np.testing.assert_array_equal(streamed[0].vector, whole[0].vector)
    assert (streamed.model, streamed.fingerprint) == (whole.model, whole.fingerprint)
    assert streamed.usage == whole.usage


async def test_pieces_arrive_while_the_rest_is_written(client_of: Client, house_with: object) -> None:
    house = house_with(seconds=0.4)  # type: ignore[operator]
    moments: list[float] = []
    await client_of(house).embed_stream(TEXT, lambda _: moments.append(house.loop.time()))
    assert len(moments) == 4
    assert moments[-1] - moments[0] > 0.2


def test_leaving_a_stream_ends_the_writing(house_with: object) -> None:
    house = house_with(seconds=5.0)  # type: ignore[operator]
    with GraceClient("http://grace", transport=house.transport) as client:
        with client.embed_stream(TEXT) as stream:
            assert next(iter(stream))
        assert house.engine.cancelled == 1
        with pytest.raises(RuntimeError, match="to its end"):
            _ = stream.result


async def test_an_engine_that_dies_in_mid_stream_is_an_error_with_the_request_id(
    client_of: Client, house_with: object
) -> None:
    house = house_with(seconds=0.4)  # type: ignore[operator]
    with pytest.raises((ConnectionFailed, Exception)) as caught:
        await client_of(house).embed_stream(TEXT, lambda _: house.loop.call_soon_threadsafe(house.engine.kill))
    assert caught.value.code == "engine_down"  # type: ignore[attr-defined]
    assert caught.value.request_id == house.requests[0].headers["x-request-id"]  # type: ignore[attr-defined]


async def test_lone_surrogates_are_read_as_the_server_reads_them(client: Both) -> None:
    broken, mended = await client("embed", ["a \ud800 b", "a \N{REPLACEMENT CHARACTER} b"])
    np.testing.assert_array_equal(broken.vector, mended.vector)


async def test_encode_takes_any_number_of_texts_and_keeps_their_order(client: Both) -> None:
    texts = [f"Text number {i}." for i in range(23)]
    told: list[tuple[int, int]] = []
    vectors = await client("encode", texts, batch_size=5, progress=lambda done, total: told.append((done, total)))
    assert vectors.shape == (23, 64)
    np.testing.assert_array_equal(vectors[17], await client("encode", texts[17]))
    assert told[-1] == (23, 23)
    assert len(told) == 5
    assert (await client("encode", [])).shape == (0, 64)
    assert (await client("encode", [], dimensions=8)).shape == (0, 8)


async def test_each_is_numbered_by_its_place_among_all(client: Both) -> None:
    items = await client("embed_each", [f"Text number {i}." for i in range(5)], mode="direct", batch_size=2)
    assert [item.index for item in items] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [0, -1, 1.5])
@pytest.mark.parametrize("name", ["batch_size", "at_once"])
async def test_options_that_count_begin_at_1_and_are_named(client: Both, name: str, value: float) -> None:
    for method, *given in (("embed_each", ["a", "b"]), ("documents.upload", "papers", [Document("1", "a")])):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1, got {value}"):
            await client(method, *given, **{name: value})


async def test_queries_and_documents_are_encoded_in_their_roles_and_compared(client: Both) -> None:
    query = await client("encode_query", "Where does the river rise?")
    documents = await client("encode_document", [TEXT, "A guild of masons built the bridge."])
    as_document = await client("encode", "Where does the river rise?")
    assert not np.array_equal(query, as_document)
    scores = client.client.similarity(query, documents)
    assert scores.shape == (1, 2)
    np.testing.assert_allclose(scores[0], documents @ query, atol=1e-6)
    with pytest.raises(ValueError, match="8 and 64 dimensions"):
        client.client.similarity(query[:8], documents)


async def test_two_texts_are_taken_apart(client: Both) -> None:
    comparison = await client("explain", "Where does it rise?", {"text": TEXT, "rationale": "Water."}, top_pairs=3)
    assert np.sum(comparison.table) == pytest.approx(comparison.score, abs=1e-5)
    assert len(comparison.pairs) == 3
    assert comparison.first.role == "query"
    assert comparison.second.rationale.finish_reason == "given"


async def test_what_the_server_refuses_is_named(client: Both) -> None:
    with pytest.raises(InvalidValue, match=r"dimensions must lie in 1\.\.64") as caught:
        await client("embed", TEXT, dimensions=999)
    assert (caught.value.status, caught.value.param, caught.value.code) == (422, "dimensions", "invalid_value")
    with pytest.raises(TooLarge, match="tokens"):
        await client("embed", "word " * 999, truncate=False)
