"""The client keeps up with the server: every route, every field of a request, every field of an answer."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from grace_client import ApiError, AsyncGraceClient, Document, answer, explanations, results
from grace_server.app import create_app
from grace_server.settings import Settings
from tests.clients.python.house import House

# Routes that have no method here, and why.
LEFT_OUT = {
    "GET /health": "the same as /readyz, under the name others use",
    "DELETE /indexes/{name}/documents/{id}": "POST /indexes/{name}/delete does it, whatever the id holds",
    "GET /indexes/{name}/map": "what the playground draws",
    "GET /indexes/{name}/map/values": "what the playground draws",
    "POST /indexes/{name}/map/query": "what the playground draws",
}
LEFT_OUT_BY_TAG = {
    "openai": "for openai-python, whose own tests run against it",
    "cohere": "for Cohere's SDK",
    "tei": "for the clients of Text Embeddings Inference",
}

METHODS = {
    "POST /embed": "embed",
    "POST /explain": "explain",
    "POST /search": "search",
    "GET /info": "info",
    "GET /metrics": "metrics",
    "GET /livez": "live",
    "GET /readyz": "ready",
    "GET /indexes": "indexes.list",
    "PUT /indexes/{name}": "indexes.create",
    "GET /indexes/{name}": "indexes.get",
    "DELETE /indexes/{name}": "indexes.delete",
    "PUT /aliases/{alias}": "indexes.set_alias",
    "DELETE /aliases/{alias}": "indexes.remove_alias",
    "POST /indexes/{name}/documents": "documents.upsert",
    "GET /indexes/{name}/documents": "documents.list",
    "GET /indexes/{name}/documents/{id}": "documents.get",
    "POST /indexes/{name}/delete": "documents.delete",
    "GET /jobs/{id}": "jobs.get",
    "GET /jobs/{id}/events": "jobs.events",
    "DELETE /jobs/{id}": "jobs.cancel",
}
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "embed": ("x",),
    "explain": ("x", "y"),
    "search": ("x",),
    "indexes.create": ("a",),
    "indexes.get": ("a",),
    "indexes.delete": ("a",),
    "indexes.set_alias": ("a", "b"),
    "indexes.remove_alias": ("a",),
    "documents.upsert": ("a", [Document("1", "x")]),
    "documents.list": ("a",),
    "documents.get": ("a", "1"),
    "documents.delete": ("a", ["1"]),
    "jobs.get": ("1",),
    "jobs.events": ("1",),
    "jobs.cancel": ("1",),
}
ANSWERS: dict[type[BaseModel], str] = {
    answer.Rationale: "RationaleBody",
    results.Segment: "SegmentBody",
    results.Embedding: "EmbedItem",
    answer.Usage: "EmbedUsage",
    results.Embeddings: "EmbedResponse",
    explanations.Part: "PartBody",
    explanations.Portion: "PortionBody",
    explanations.Side: "SideBody",
    explanations.Cell: "PairBody",
    explanations.Comparison: "ExplainResponse",
    explanations.Piece: "PieceOut",
    explanations.Pair: "PairOut",
    explanations.Explanation: "ExplanationOut",
    results.Place: "grace_server__index__routes__search__PlaceOut",
    results.SourceShare: "SourceBody",
    results.Audit: "AuditBody",
    explanations.TokenPart: "TokenBody",
    explanations.Change: "ChangeBody",
    explanations.HitChange: "ChangeOut",
    explanations.Mean: "MeanBody",
    explanations.Centred: "CentredBody",
    explanations.CentredHit: "CentredOut",
    explanations.Against: "AgainstBody",
    explanations.Without: "WithoutBody",
    explanations.Portions: "PortionsOut",
    results.Hit: "HitOut",
    results.Query: "QueryOut",
    results.Timing: "TimingOut",
    results.Found: "SearchOut",
    results.FoundEach: "SearchesOut",
    results.Counts: "CountsOut",
    results.Index: "IndexOut",
    results.Indexes: "IndexList",
    results.Alias: "AliasOut",
    results.Failure: "JobFailureOut",
    results.Job: "JobOut",
    results.Written: "WrittenOut",
    results.StoredDocument: "DocumentOut",
    results.Page: "DocumentPage",
    results.Deleted: "DeletedOut",
    results.Limits: "Limits",
    results.Info: "Info",
}
# What a method takes under another name, or decides by itself.
SETTLED = {
    "embed": {"encoding_format": "always base64", "stream": "embed_stream"},
    "documents.upsert": {"documents": "documents", "wait": "wait"},
    "indexes.create": {"settings": "settings"},
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(Settings(model="none")).openapi()


@pytest.fixture
async def client(house: House) -> AsyncIterator[AsyncGraceClient]:
    async with AsyncGraceClient("http://grace", transport=house.async_transport) as client:
        yield client


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {f"{verb.upper()} {path}": op for path, ops in document["paths"].items() for verb, op in ops.items()}


def test_every_route_has_a_method_or_a_reason(document: dict[str, Any]) -> None:
    known = METHODS.keys() | LEFT_OUT.keys()
    open_ones = {
        name for name, op in operations(document).items() if not LEFT_OUT_BY_TAG.keys() & set(op.get("tags", ()))
    }
    assert open_ones - known == set(), "give it a method, or a reason in LEFT_OUT"
    assert known - open_ones == set(), "these are no routes any more"


@pytest.mark.parametrize("route", METHODS)
async def test_every_method_asks_for_its_route(client: AsyncGraceClient, house: House, route: str) -> None:
    name = METHODS[route]
    method: Any = client
    for part in name.split("."):
        method = getattr(method, part)
    result = method(*ARGUMENTS.get(name, ()))
    try:
        if inspect.isasyncgen(result):
            async for _ in result:
                break
        else:
            await result
    except ApiError as error:
        assert error.status in (404, 409, 422), error  # noqa: PT017 - it need not fail
    verb, path = route.split(" ")
    expected = path.format(name="a", alias="a", id="1")
    assert (verb, expected) in [(request.method, request.url.path) for request in house.requests]


@pytest.mark.parametrize(
    "name", ["embed", "explain", "search", "documents.delete", "documents.upsert", "indexes.create"]
)
def test_every_field_of_a_request_is_a_parameter(document: dict[str, Any], name: str) -> None:
    [route] = [route for route, method in METHODS.items() if method == name]
    body = operations(document)[route]["requestBody"]["content"]["application/json"]["schema"]
    reference = body.get("$ref") or next(one["$ref"] for one in body["anyOf"] if "$ref" in one)
    fields = set(document["components"]["schemas"][reference.split("/")[-1]]["properties"])
    method: Any = AsyncGraceClient
    if "." in name:
        method = getattr(AsyncGraceClient("http://grace"), name.split(".")[0])
        name_there = name.split(".")[1]
    else:
        name_there = name
    parameters = set(inspect.signature(getattr(method, name_there)).parameters)
    assert fields - parameters - SETTLED.get(name, {}).keys() == set()


def test_every_field_of_a_document_can_be_given(document: dict[str, Any]) -> None:
    assert set(document["components"]["schemas"]["DocumentIn"]["properties"]) == set(Document.__dataclass_fields__)


@pytest.mark.parametrize(("kind", "schema"), ANSWERS.items(), ids=lambda x: getattr(x, "__name__", x))
def test_every_field_of_an_answer_is_read(document: dict[str, Any], kind: type[BaseModel], schema: str) -> None:
    wire = set(document["components"]["schemas"][schema]["properties"]) - {"object"}
    assert set(kind.model_fields) == wire


def test_every_answer_is_looked_at() -> None:
    found = [kind for module in (answer, explanations, results) for kind in vars(module).values()]
    kinds = {kind for kind in found if isinstance(kind, type) and issubclass(kind, answer.Result)}
    assert kinds - {answer.Result} == set(ANSWERS)


def test_the_page_names_what_is_left_out() -> None:
    page = (Path(__file__).parents[3] / "docs" / "clients.md").read_text(encoding="utf-8")
    for route in LEFT_OUT:
        assert f"`{route}`" in page
