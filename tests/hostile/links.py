"""What an answer is good for in the next request: OpenAPI links, which our document lacks, put into it for a test.

Without them schemathesis finds its way by names alone, and never to what takes a body or a job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MODEL = "$response.body#/data/0/id"
INDEX = "$response.body#/data/0/name"
NAME = "$request.path.name"
JOB = {"id": "$response.body#/job/id"}
SEQ = "$response.body#/seq"
FIELD = "length"  # of the metadata
COLOUR = {"name": NAME, "seq": SEQ, "field": FIELD}
BATCH = {"documents": [{"id": "Havel", "text": "The Havel.", "metadata": {FIELD: 334}}]}
WRITTEN = {"name": NAME, "id": "$request.body#/documents/0/id"}


@dataclass(frozen=True)
class Link:
    """From an answer to a request. With `exact` its body is just that; else the rest of it is made up."""

    source: str
    status: str
    target: str
    parameters: dict[str, str] = field(default_factory=dict)
    body: Any = None
    exact: bool = False

    def as_openapi(self, document: dict[str, Any]) -> dict[str, Any]:
        """As the document has it."""
        told: dict[str, Any] = {"operationId": operation(document, self.target)["operationId"]}
        told["parameters"] = self.parameters
        if self.body is not None:
            told |= {"requestBody": self.body, "x-schemathesis": {"merge_body": not self.exact}}
        return told


LINKS = (
    Link("GET /v1/models", "200", "GET /v1/models/{model_id}", {"model_id": MODEL}),
    Link("GET /v1/models", "200", "POST /embed", body={"input": "The Elbe."}),
    Link("GET /v1/models", "200", "POST /explain", body={"first": "A river?", "second": "The Elbe."}),
    Link("GET /v1/models", "200", "POST /v1/embeddings", body={"model": MODEL, "input": "The Elbe."}),
    Link("GET /v1/models", "200", "POST /v1/embed", body={"model": MODEL, "texts": ["The Elbe."]}),
    Link("GET /v1/models", "200", "POST /v2/embed", body={"model": MODEL, "texts": ["The Elbe."]}),
    Link("GET /v1/models", "200", "GET /tei/info"),
    Link("GET /v1/models", "200", "POST /tei", body={"inputs": "The Elbe."}),
    Link("GET /v1/models", "200", "POST /tei/embed", body={"inputs": ["The Elbe."]}),
    Link(
        "GET /v1/models",
        "200",
        "POST /tei/similarity",
        body={"inputs": {"source_sentence": "A river?", "sentences": ["The Elbe."]}},
    ),
    Link("GET /indexes", "200", "PUT /indexes/{name}", {"name": "lakes"}, body={}, exact=True),
    Link("GET /indexes", "200", "GET /indexes/{name}", {"name": INDEX}),
    Link("GET /indexes", "200", "GET /indexes/{name}/documents", {"name": INDEX}),
    Link("GET /indexes", "200", "POST /indexes/{name}/documents", {"name": INDEX}, body=BATCH, exact=True),
    Link("GET /indexes", "200", "POST /indexes/{name}/delete", {"name": INDEX}, body={"ids": ["Oder"]}, exact=True),
    Link("GET /indexes", "200", "GET /indexes/{name}/map", {"name": INDEX}),
    Link("GET /indexes", "200", "POST /search", body={"index": INDEX, "query": "river"}),
    Link("GET /indexes", "200", "PUT /aliases/{alias}", {"alias": "here"}, body={"index": INDEX}),
    Link("PUT /indexes/{name}", "201", "DELETE /indexes/{name}", {"name": NAME}),
    Link("PUT /aliases/{alias}", "200", "DELETE /aliases/{alias}", {"alias": "$response.body#/alias"}),
    Link("POST /indexes/{name}/documents", "202", "GET /jobs/{id}", JOB),
    Link("POST /indexes/{name}/documents", "202", "GET /jobs/{id}/events", JOB),
    Link("POST /indexes/{name}/documents", "202", "DELETE /jobs/{id}", JOB),
    Link("POST /indexes/{name}/documents", "202", "POST /search", body={"index": NAME, "query": "Havel"}, exact=True),
    Link("POST /indexes/{name}/documents", "202", "GET /indexes/{name}/documents/{id}", WRITTEN),
    Link("POST /indexes/{name}/documents", "202", "DELETE /indexes/{name}/documents/{id}", WRITTEN),
    Link(
        "GET /indexes/{name}/map", "200", "GET /indexes/{name}/map/values", {"name": NAME, "seq": SEQ, "field": FIELD}
    ),
    Link("GET /indexes/{name}/map", "200", "POST /indexes/{name}/map/query", {"name": NAME}, body={"seq": SEQ}),
)


def operation(document: dict[str, Any], label: str) -> dict[str, Any]:
    """The operation of a verb and a path."""
    verb, path = label.split()
    found: dict[str, Any] = document["paths"][path][verb.lower()]
    return found


def linked(document: dict[str, Any]) -> dict[str, Any]:
    """The document, with links."""
    for number, link in enumerate(LINKS):
        responses = operation(document, link.source)["responses"]
        responses[link.status].setdefault("links", {})[f"link{number}"] = link.as_openapi(document)
    return document
