"""LangChain's own standard tests, unmodified, and what they do not ask."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests, VectorStoreIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from grace_client import AsyncGraceClient, GraceClient, GraceError, IndexNotFound, InvalidValue
from grace_client.langchain import GraceEmbeddings, GraceVectorStore
from tests.clients.python.counting import inherited, said
from tests.clients.python.house import House


def clients(house: House) -> dict[str, Any]:
    return {
        "client": GraceClient("http://grace", transport=house.transport),
        "async_client": AsyncGraceClient("http://grace", transport=house.async_transport),
    }


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[Embeddings]:
        return GraceEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"url": "http://grace", "dimensions": 8}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"GRACE_CLIENT_URL": "http://elsewhere"}, {"mode": "direct"}, {"mode": "direct"}


class TestEmbeddings(EmbeddingsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _house(self, house: House) -> None:
        self.house = house

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return GraceEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return clients(self.house)


class TestVectorStoreWithVectorsOfItsOwn(VectorStoreIntegrationTests):
    """The suite's embeddings have 6 dimensions; the server stores what they give."""

    @pytest.fixture
    def vectorstore(self, house: House) -> Iterator[VectorStore]:
        given = clients(house)
        given["client"].indexes.create("papers", {"dimensions": 6})
        yield GraceVectorStore("papers", embedding=self.get_embeddings(), **given)
        given["client"].indexes.delete("papers")


@pytest.fixture
def store(house: House) -> GraceVectorStore:
    """The server embeds."""
    return GraceVectorStore("papers", rationale_key="why", **clients(house))


def test_queries_and_documents_are_embedded_in_their_roles(house: House) -> None:
    embeddings = GraceEmbeddings(dimensions=8, **clients(house))
    query, [document] = embeddings.embed_query("a river"), embeddings.embed_documents(["a river"])
    assert len(query) == len(document) == 8
    assert query != document
    assert embeddings.embed_documents([]) == []


def test_the_first_write_creates_the_index_and_found_documents_say_why(store: GraceVectorStore) -> None:
    with pytest.raises(IndexNotFound):
        store.similarity_search("river")
    ids = store.add_texts(["The river rises in the hills.", "Masons built the bridge."], [{"n": 1}, {"n": 2}])
    assert len(set(ids)) == 2
    [(found, score)] = store.similarity_search_with_score(
        "river", k=5, filter={"field": "n", "operator": "==", "value": 1}
    )
    assert (found.id, found.metadata["n"]) == (ids[0], 1)
    assert found.metadata["why"]
    assert -1 <= score <= 1
    [by_words] = store.similarity_search("masons", method="lexical")
    assert by_words.page_content == "Masons built the bridge."


async def test_asynchronous_methods_do_the_same(store: GraceVectorStore, house: House) -> None:
    ids = await store.aadd_texts(["The river rises in the hills.", "Masons built the bridge."], ids=["a", "b"])
    assert ids == ["a", "b"]
    found = await store.asimilarity_search_with_score("masons", method="hybrid", k=1)
    assert found[0][0].id in ids
    assert [d.id for d in await store.asimilarity_search("masons", method="lexical")] == ["b"]
    vector = GraceEmbeddings(**clients(house)).embed_query("masons")
    near = store.similarity_search_by_vector(vector, k=2)
    assert [d.id for d in await store.asimilarity_search_by_vector(vector, k=2)] == [d.id for d in near]
    await store.adelete()
    assert await store.asimilarity_search("river") == []


def test_as_a_retriever_with_scores_between_0_and_1(store: GraceVectorStore) -> None:
    store.add_documents([Document("The river rises in the hills.", id="a"), Document("Masons built the bridge.")])
    retriever = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.0})
    assert len(retriever.invoke("river")) == 2
    store.delete()
    assert retriever.invoke("river") == []


def test_from_texts_makes_a_store_with_vectors_of_its_own(house: House) -> None:
    class Lengths(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return [1.0, float(len(text))]

    store = GraceVectorStore.from_texts(["a", "aaaaaaaa"], Lengths(), index="lengths", ids=["1", "2"], **clients(house))
    assert store.similarity_search("a", k=1)[0].id == "1"
    assert GraceClient("http://grace", transport=house.transport).indexes.get("lengths").dimensions == 2
    assert store.embeddings is not None


async def test_a_text_that_cannot_be_embedded_is_not_passed_over(store: GraceVectorStore, house: House) -> None:
    texts = ["The river rises.", "A flood comes.", "The flood goes."]
    with house.fails_at("flood"):
        with pytest.raises(GraceError, match=r"2 of 3 documents .*'b': flood is too much; 'c'"):
            store.add_texts(texts, ids=["a", "b", "c"])
        with pytest.raises(GraceError, match=r"1 of 1 documents .*'d'"):
            await store.aadd_texts(["Another flood."], ids=["d"])
    assert [found.id for found in store.similarity_search("river")] == ["a"]


def test_lists_of_different_lengths_are_refused(store: GraceVectorStore) -> None:
    with pytest.raises(ValueError, match="2 texts but 1 ids"):
        store.add_texts(["a", "b"], ids=["1"])
    with pytest.raises(ValueError, match="2 texts but 1 metadatas"):
        store.add_texts(["a", "b"], [{}])
    with pytest.raises(InvalidValue):
        store.add_texts(["a"], ids=["x" * 600])


def test_the_page_says_how_many_of_its_tests_there_are(request: pytest.FixtureRequest) -> None:
    count = inherited(request, "langchain_tests")
    assert said(f"{count} tests of LangChain"), count
