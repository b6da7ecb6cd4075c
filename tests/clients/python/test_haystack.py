"""Haystack's own tests of document stores, unmodified, and what they do not ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from haystack import Document, Pipeline
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.testing import document_store as suite
from haystack.testing import document_store_async as async_suite
from haystack.utils import Secret

from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from grace_client import AsyncGraceClient, GraceClient, GraceError, InvalidValue
from grace_client.haystack import (
    GraceDocumentEmbedder,
    GraceDocumentStore,
    GraceEmbeddingRetriever,
    GraceRetriever,
    GraceTextEmbedder,
)
from tests.clients.python.counting import inherited, said
from tests.clients.python.house import House, running
from tests.support.models import make_model


def clients(house: House) -> dict[str, Any]:
    return {
        "client": GraceClient("http://grace", transport=house.transport),
        "async_client": AsyncGraceClient("http://grace", transport=house.async_transport),
    }


@pytest.fixture(scope="module")
def wide_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """The suite's embeddings have 768 dimensions."""
    folder = make_model(tmp_path_factory.mktemp("models") / "wide", hidden=768, layers=1)
    with running(tmp_path_factory.mktemp("wide"), Prompter(Checkpoint.load(folder))) as house:
        yield house


class Suite:
    @pytest.fixture
    def document_store(self, wide_house: House) -> Iterator[GraceDocumentStore]:
        given = clients(wide_house)
        yield GraceDocumentStore(index="haystack", **given)
        if any(index.name == "haystack" for index in given["client"].indexes.list()):
            given["client"].indexes.delete("haystack")

    @staticmethod
    def assert_documents_are_equal(received: list[Document], expected: list[Document]) -> None:
        """The suite's hook for stores with an order of their own, or that keep embeddings: ours does both."""

        def plain(documents: list[Document]) -> list[dict[str, Any]]:
            return sorted(({**d.to_dict(flatten=False), "embedding": None} for d in documents), key=lambda d: d["id"])

        assert plain(received) == plain(expected)


class TestDocumentStore(
    Suite,
    suite.DocumentStoreBaseTests,
    suite.DeleteAllTest,
    suite.DeleteByFilterTest,
    suite.CountDocumentsByFilterTest,
):
    def test_write_documents(self, document_store: GraceDocumentStore) -> None:
        """The suite leaves this one to each store: without a policy, a known id is an error."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            document_store.write_documents([document])


class TestDocumentStoreAsync(
    Suite,
    async_suite.CountDocumentsAsyncTest,
    async_suite.WriteDocumentsAsyncTest,
    async_suite.DeleteDocumentsAsyncTest,
    async_suite.FilterDocumentsAsyncTest,
    async_suite.DeleteAllAsyncTest,
    async_suite.DeleteByFilterAsyncTest,
    async_suite.CountDocumentsByFilterAsyncTest,
):
    async def test_write_documents_async(self, document_store: GraceDocumentStore) -> None:
        document = Document(content="test doc")
        assert await document_store.write_documents_async([document]) == 1
        with pytest.raises(DuplicateDocumentError):
            await document_store.write_documents_async([document])


@pytest.fixture
def store(house: House) -> GraceDocumentStore:
    return GraceDocumentStore(index="papers", rationale_key="why", **clients(house))


DOCUMENTS = [
    Document(id="1", content="The river rises in the hills.", meta={"year": 1990}),
    Document(id="2", content="A guild of masons built the bridge.", meta={"year": 1432}),
]


def test_a_pipeline_finds_by_words_and_by_vectors(store: GraceDocumentStore, house: House) -> None:
    store.write_documents(DOCUMENTS, DuplicatePolicy.OVERWRITE)
    pipeline = Pipeline()
    pipeline.add_component("embedder", GraceTextEmbedder(**clients(house)))
    pipeline.add_component("near", GraceEmbeddingRetriever(store, top_k=1))
    pipeline.add_component("words", GraceRetriever(store, method="lexical"))
    pipeline.connect("embedder.embedding", "near.query_embedding")
    found = pipeline.run(
        {"embedder": {"text": "masons"}, "words": {"query": "masons"}}, include_outputs_from={"embedder"}
    )
    assert len(found["near"]["documents"]) == 1
    [document] = found["words"]["documents"]
    assert (document.id, document.meta["year"]) == ("2", 1432)
    assert document.meta["why"]
    assert document.score is not None
    assert found["embedder"]["meta"]["rationale"]
    older = GraceRetriever(store).run("river", filters={"field": "meta.year", "operator": "<", "value": 1500})
    assert [d.id for d in older["documents"]] == ["2"]


async def test_an_asynchronous_pipeline_does_the_same(store: GraceDocumentStore, house: House) -> None:
    await store.write_documents_async(DOCUMENTS, DuplicatePolicy.SKIP)
    pipeline = Pipeline()
    pipeline.add_component("embedder", GraceTextEmbedder(**clients(house)))
    pipeline.add_component("near", GraceEmbeddingRetriever(store, top_k=2))
    pipeline.add_component("words", GraceRetriever(store))
    pipeline.connect("embedder.embedding", "near.query_embedding")
    found = await pipeline.run_async({"embedder": {"text": "masons"}, "words": {"query": "masons"}})
    assert [d.id for d in found["near"]["documents"]] == [d.id for d in found["words"]["documents"]]


async def test_documents_are_embedded_and_the_given_ones_left_alone(house: House) -> None:
    embedder = GraceDocumentEmbedder(meta_fields_to_embed=["year"], rationale_key="why", dimensions=8, **clients(house))
    embedded = embedder.run(DOCUMENTS)["documents"]
    assert [len(d.embedding) for d in embedded] == [8, 8]
    assert embedded[0].meta["why"]
    assert DOCUMENTS[0].embedding is None
    assert "why" not in DOCUMENTS[0].meta
    assert (await embedder.run_async(DOCUMENTS))["documents"] == embedded
    sent = [json.loads(request.content)["input"] for request in house.requests]
    assert sent[0] == ["1990\nThe river rises in the hills.", "1432\nA guild of masons built the bridge."]
    assert embedder.run([]) == {"documents": []}
    with pytest.raises(TypeError, match="GraceTextEmbedder"):
        embedder.run("a text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="GraceDocumentEmbedder"):
        GraceTextEmbedder(**clients(house)).run(DOCUMENTS)  # type: ignore[arg-type]


def test_pipelines_are_written_down_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    key = Secret.from_env_var("MY_KEY")
    store = GraceDocumentStore("http://there", key, "papers", "why")
    pipeline = Pipeline()
    pipeline.add_component("embedder", GraceTextEmbedder("http://there", key, "direct", 8))
    pipeline.add_component("documents", GraceDocumentEmbedder("http://there", key, batch_size=3))
    pipeline.add_component("near", GraceEmbeddingRetriever(store, 3, {"field": "a", "operator": "==", "value": 1}))
    pipeline.add_component("words", GraceRetriever(store, method="hybrid"))
    text = pipeline.dumps()
    assert "secret" not in text
    again = Pipeline.loads(text, allowed_modules=["grace_client"])
    assert again.dumps() == text
    assert again.get_component("words").document_store.to_dict() == store.to_dict()


def test_what_the_suite_does_not_ask_of_writing(store: GraceDocumentStore) -> None:
    twice = [Document(id="1", content="first"), Document(id="1", content="second")]
    with pytest.raises(DuplicateDocumentError):
        store.write_documents(twice)
    assert store.count_documents() == 0
    assert store.write_documents(twice, DuplicatePolicy.SKIP) == 1
    assert store.filter_documents()[0].content == "first"
    assert store.write_documents(twice, DuplicatePolicy.OVERWRITE) == 2
    assert store.filter_documents()[0].content == "second"
    with pytest.raises(ValueError, match="neither content nor an embedding"):
        store.write_documents([Document(id="2")])
    assert store.write_documents([]) == 0
    with pytest.raises(InvalidValue):
        store.write_documents([Document(id="x" * 999, content="x")], DuplicatePolicy.OVERWRITE)


async def test_a_document_that_cannot_be_embedded_is_not_passed_over(store: GraceDocumentStore, house: House) -> None:
    with house.fails_at("flood"):
        with pytest.raises(GraceError, match=r"1 of 2 documents .*'2': flood is too much"):
            store.write_documents([Document(id="1", content="The river."), Document(id="2", content="A flood.")])
        with pytest.raises(GraceError, match=r"1 of 1 documents .*'3'"):
            await store.write_documents_async([Document(id="3", content="Another flood.")])


def test_nested_filters_are_checked_to_the_bottom(store: GraceDocumentStore) -> None:
    store.write_documents(DOCUMENTS)
    inner = {"field": "meta.year", "operator": "in", "value": (1990,)}
    with pytest.raises(FilterError, match="takes a list, not tuple"):
        store.filter_documents({"operator": "AND", "conditions": [{"operator": "NOT", "conditions": [inner]}]})
    with pytest.raises(FilterError, match="conditions"):
        store.filter_documents({"operator": "OR", "conditions": []})
    with pytest.raises(FilterError, match="an object, not str: 'year'"):
        store.filter_documents({"operator": "OR", "conditions": ["year"]})
    nothing = {"field": "meta.year", "operator": ">", "value": None}
    assert len(store.filter_documents({"operator": "NOT", "conditions": [nothing]})) == 2


def test_the_page_says_how_many_of_its_tests_there_are(request: pytest.FixtureRequest) -> None:
    count = inherited(request, "haystack.testing")
    assert said(f"{count} of Haystack"), count
