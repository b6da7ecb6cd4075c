"""LlamaIndex ships no standard tests for embeddings and stores: its own index, retriever and pipeline are the judge."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

from grace_client import AsyncGraceClient, GraceClient, GraceError, IndexNotFound
from grace_client import Document as Written
from grace_client.llama_index import GraceEmbedding, GraceVectorStore
from tests.clients.python.house import House

RIVER, BRIDGE = "The river rises in the hills.", "A guild of masons built the bridge."


def clients(house: House) -> dict[str, Any]:
    return {
        "client": GraceClient("http://grace", transport=house.transport),
        "async_client": AsyncGraceClient("http://grace", transport=house.async_transport),
    }


@pytest.fixture
def embedding(house: House) -> GraceEmbedding:
    return GraceEmbedding(**clients(house))


@pytest.fixture
def store(house: House) -> GraceVectorStore:
    return GraceVectorStore("papers", **clients(house))


def node(id: str, text: str, parent: str = "book", **metadata: Any) -> TextNode:
    return TextNode(
        id_=id,
        text=text,
        metadata=metadata,
        embedding=[1.0, float(len(text))],
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=parent)},
    )


def every(
    *filters: MetadataFilter | MetadataFilters, condition: FilterCondition = FilterCondition.AND
) -> MetadataFilters:
    return MetadataFilters(filters=list(filters), condition=condition)


async def test_embeddings_in_all_the_ways_there_are(embedding: GraceEmbedding) -> None:
    assert isinstance(embedding, BaseEmbedding)
    texts = [RIVER, BRIDGE, "third"]
    one_by_one = [embedding.get_text_embedding(text) for text in texts]
    assert embedding.get_text_embedding_batch(texts) == one_by_one
    assert await embedding.aget_text_embedding_batch(texts) == one_by_one
    assert await embedding.aget_text_embedding(RIVER) == one_by_one[0]
    query = embedding.get_query_embedding(RIVER)
    assert await embedding.aget_query_embedding(RIVER) == query != one_by_one[0]
    nodes = embedding([TextNode(text=RIVER)])
    assert len(nodes[0].embedding or ()) == 64


def test_the_key_is_not_serialised() -> None:
    written = GraceEmbedding("http://grace", api_key="secret", dimensions=8).to_json()
    assert "secret" not in written
    assert '"dimensions": 8' in written
    assert "secret" not in GraceVectorStore("papers", api_key="secret").to_json()


def test_what_is_pickled_asks_the_same_server_with_the_same_key(
    house_with: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = house_with(api_keys=("secret",), listening=True)
    embedding = GraceEmbedding(house.url, api_key="secret", dimensions=8)
    store = GraceVectorStore("papers", url=house.url, api_key="secret", server_embeds=True)
    store.add([node("1", RIVER)])
    numbers = embedding.get_text_embedding(RIVER)
    for copied in (pickle.loads(pickle.dumps(embedding)), copy.deepcopy(embedding)):
        assert copied.get_text_embedding(RIVER) == numbers
    for one in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        assert [found.node_id for found in one.get_nodes()] == ["1"]
        assert (one.index, one.server_embeds) == ("papers", True)


def test_the_workers_of_a_pipeline_ask_the_same_server(listening: House) -> None:
    nodes = [TextNode(text=f"River {i}.") for i in range(4)]
    pipeline = IngestionPipeline(transformations=[GraceEmbedding(listening.url, dimensions=8)], disable_cache=True)
    pipeline.transformations[0].get_text_embedding("used before it is sent")
    assert [len(one.embedding or ()) for one in pipeline.run(nodes=nodes, num_workers=2)] == [8] * 4


def test_the_server_is_that_of_the_environment_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACE_CLIENT_URL", "http://here")
    embedding, store = GraceEmbedding(), GraceVectorStore("papers")
    monkeypatch.setenv("GRACE_CLIENT_URL", "http://there")
    assert embedding.url == pickle.loads(pickle.dumps(embedding)).url == store.client.http.url == "http://here"
    assert GraceEmbedding("http://said").url == "http://said"
    assert GraceEmbedding(client=GraceClient("http://given")).url == "http://given"


def test_a_cache_of_one_servers_vectors_is_not_anothers() -> None:
    nodes = [TextNode(text=RIVER)]
    one, same, other = (
        get_transformation_hash(nodes, GraceEmbedding(url, api_key=key))
        for url, key in (("http://a", "old"), ("http://a", "new"), ("http://b", "old"))
    )
    assert one == same != other


async def test_documents_that_another_client_wrote_are_found(embedding: GraceEmbedding, house: House) -> None:
    given = clients(house)
    client: GraceClient = given["client"]
    client.indexes.create("papers")
    client.documents.upsert("papers", [Written("1", RIVER, {"year": 1990}), Written("2", BRIDGE)])
    store = GraceVectorStore("papers", rationale_key="why", **given)
    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    found = {one.node_id: one.node for one in index.as_retriever(similarity_top_k=2).retrieve("Where does it rise?")}
    assert {id: one.get_content() for id, one in found.items()} == {"1": RIVER, "2": BRIDGE}
    assert found["1"].metadata.pop("why")
    assert found["1"].metadata == {"year": 1990}
    assert {one.node_id for one in store.get_nodes()} == {"1", "2"}
    assert [one.node_id for one in store.get_nodes(["2", "nobody", ""])] == ["2"]
    assert [one.node_id for one in await store.aget_nodes(["2", "nobody"])] == ["2"]
    store.delete_nodes(["1", "nobody"])
    assert [one.node_id for one in store.get_nodes()] == ["2"]
    await store.adelete_nodes(["2"])
    assert store.get_nodes() == []


async def test_an_index_answers_through_its_retriever(embedding: GraceEmbedding, store: GraceVectorStore) -> None:
    documents = [Document(text=RIVER, id_="a", metadata={"year": 1990}), Document(text=BRIDGE, id_="b")]
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=2)
    found = retriever.retrieve("Who built the bridge?")
    assert {one.node.get_content() for one in found} == {RIVER, BRIDGE}
    assert [one.score for one in found] == sorted((one.score or 0 for one in found), reverse=True)
    assert [one.node_id for one in await retriever.aretrieve("Who built the bridge?")] == [one.node_id for one in found]
    assert next(one for one in found if one.node.ref_doc_id == "a").metadata == {"year": 1990}
    again = VectorStoreIndex.from_vector_store(store, embed_model=embedding).as_retriever(similarity_top_k=2)
    assert [one.node_id for one in again.retrieve("Who built the bridge?")] == [one.node_id for one in found]
    index.delete_ref_doc("a", delete_from_docstore=True)
    assert [one.node.ref_doc_id for one in retriever.retrieve("river")] == ["b"]


def test_the_server_may_embed_and_then_nodes_say_why(house: House) -> None:
    store = GraceVectorStore("papers", server_embeds=True, rationale_key="why", **clients(house))
    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex.from_documents(
        [Document(text=RIVER), Document(text=BRIDGE)], storage_context=context, embed_model=MockEmbedding(1)
    )
    for mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.TEXT_SEARCH):
        found = index.as_retriever(similarity_top_k=1, vector_store_query_mode=mode).retrieve("masons")
        assert len(found) == 1
        assert found[0].node.metadata["why"]
    assert found[0].node.get_content() == BRIDGE


def test_an_ingestion_pipeline_writes_into_the_store(embedding: GraceEmbedding, store: GraceVectorStore) -> None:
    pipeline = IngestionPipeline(
        transformations=[SentenceSplitter(chunk_size=20, chunk_overlap=0), embedding], vector_store=store
    )
    nodes = pipeline.run(documents=[Document(text=f"{RIVER} {BRIDGE} " * 4)])
    assert len(nodes) > 1
    assert {one.node_id for one in store.get_nodes()} == {one.node_id for one in nodes}


def test_a_node_comes_back_as_it_was(store: GraceVectorStore) -> None:
    first = node("1", RIVER, year=1990, tags=["water"], nested={"a": 1})
    assert store.add([first]) == ["1"]
    [read] = store.get_nodes(["1"])
    assert read.model_dump(exclude={"embedding"}) == first.model_dump(exclude={"embedding"})
    assert isinstance(store, BasePydanticVectorStore)
    assert store.stores_text
    assert store.is_embedding_query


async def test_nodes_are_chosen_and_deleted_by_id_by_document_and_by_filter(store: GraceVectorStore) -> None:
    with pytest.raises(IndexNotFound):
        store.get_nodes()
    nodes = [node(str(i), "x" * i, "even" if i % 2 == 0 else "odd", n=i) for i in range(1, 7)]
    assert await store.async_add(nodes) == [str(i) for i in range(1, 7)]
    assert [n.node_id for n in store.get_nodes(["3", "nobody"])] == ["3"]
    few = every(MetadataFilter(key="n", value=2, operator=FilterOperator.LTE))
    assert [n.node_id for n in await store.aget_nodes(["2", "3"], few)] == ["2"]
    store.delete_nodes(["1"])
    await store.adelete_nodes(filters=every(MetadataFilter(key="n", value=6)))
    store.delete_nodes()
    assert [n.node_id for n in store.get_nodes()] == ["2", "3", "4", "5"]
    store.delete("odd")
    assert [n.node_id for n in store.get_nodes()] == ["2", "4"]
    await store.adelete("nobody")
    await store.aclear()
    assert store.get_nodes() == []


async def test_nodes_are_found_by_any_number_of_ids_of_any_length(store: GraceVectorStore, house: House) -> None:
    ids = [f"{i:04}" for i in range(450)] + [f"{i}{chr(0x1F600) * 120}" for i in range(60)]
    store.add([node(id, "x") for id in ids])
    house.requests.clear()
    assert [one.node_id for one in store.get_nodes([*ids, "nobody", *reversed(ids)])] == sorted(ids)
    assert [one.node_id for one in await store.aget_nodes(ids)] == sorted(ids)
    assert max(len(request.url.raw_path) for request in house.requests) < 2**15
    assert store.get_nodes([]) == []


async def test_a_node_that_cannot_be_embedded_is_not_passed_over(house: House) -> None:
    store = GraceVectorStore("papers", server_embeds=True, **clients(house))
    with house.fails_at("flood"):
        with pytest.raises(GraceError, match=r"1 of 2 documents .*'2': flood is too much"):
            store.add([node("1", RIVER), node("2", "A flood.")])
        with pytest.raises(GraceError, match=r"1 of 1 documents .*'3'"):
            await store.async_add([node("3", "Another flood.")])


def test_queries_honour_ids_documents_and_filters(store: GraceVectorStore) -> None:
    store.add([node(str(i), "x" * i, f"doc {i % 2}", n=i, tags=["all", f"t{i}"]) for i in range(1, 5)])

    def ids(**query: Any) -> list[str]:
        found = store.query(VectorStoreQuery(query_embedding=[1.0, 2.0], similarity_top_k=9, **query))
        assert len(found.nodes or ()) == len(found.similarities or ()) == len(found.ids or ())
        return sorted(found.ids or ())

    def by(operator: FilterOperator, value: Any, key: str = "n") -> list[str]:
        return ids(filters=every(MetadataFilter(key=key, value=value, operator=operator)))

    assert store.query(VectorStoreQuery(query_embedding=[1.0, 2.0], similarity_top_k=1)).ids == ["2"]
    assert ids(node_ids=["1", "4"]) == ["1", "4"]
    assert ids(doc_ids=["doc 1"]) == ["1", "3"]
    assert ids(doc_ids=["doc 1"], node_ids=["1", "4"]) == ["1"]
    assert by(FilterOperator.EQ, 2) == ["2"]
    assert by(FilterOperator.NE, 2) == ["1", "3", "4"]
    assert by(FilterOperator.GT, 2) == by(FilterOperator.GTE, 3) == ["3", "4"]
    assert by(FilterOperator.LT, 2) == by(FilterOperator.LTE, 1) == ["1"]
    assert by(FilterOperator.IN, [1, 2]) == ["1", "2"]
    assert by(FilterOperator.NIN, [1, 2]) == ["3", "4"]
    assert by(FilterOperator.CONTAINS, "t3", "tags") == ["3"]
    assert by(FilterOperator.ANY, ["t3", "t4"], "tags") == ["3", "4"]
    assert by(FilterOperator.ALL, ["all", "t4"], "tags") == ["4"]
    assert by(FilterOperator.ANY, [], "tags") == []
    assert by(FilterOperator.ALL, [], "tags") == ["1", "2", "3", "4"]
    one, two = MetadataFilter(key="n", value=1), MetadataFilter(key="n", value=2)
    assert ids(filters=every(one, two, condition=FilterCondition.OR)) == ["1", "2"]
    assert ids(filters=every(one, condition=FilterCondition.NOT)) == ["2", "3", "4"]
    either = every(one, two, condition=FilterCondition.OR)
    assert ids(filters=every(either, MetadataFilter(key="n", value=2, operator=FilterOperator.GTE))) == ["2"]
    assert ids(filters=every()) == ["1", "2", "3", "4"]
    with pytest.raises(NotImplementedError, match="text_match"):
        by(FilterOperator.TEXT_MATCH, "x")
    with pytest.raises(NotImplementedError, match="mmr"):
        ids(mode=VectorStoreQueryMode.MMR)
    with pytest.raises(NotImplementedError, match="alpha"):
        ids(mode=VectorStoreQueryMode.HYBRID, query_str="x", alpha=0.5)
