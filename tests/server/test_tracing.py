"""Spans tell where the time of a request went, also of a failed one, and never what it was about."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from grace_server import logs
from grace_server.settings import Settings
from grace_server.tracing import Tracing
from tests.server.conftest import Serve, Service, until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Traced:
    """A service that keeps its spans in memory."""

    def __init__(self, service: Service, exporter: InMemorySpanExporter, tracing: Tracing) -> None:
        self.service, self._exporter, self._tracing = service, exporter, tracing

    def spans(self) -> list[ReadableSpan]:
        """All that ended so far, oldest first."""
        self._tracing._provider.force_flush()
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.start_time or 0)

    def named(self, name: str) -> ReadableSpan:
        found = [span for span in self.spans() if span.name == name]
        assert len(found) == 1, [span.name for span in self.spans()]
        return found[0]


async def traced(serve: Serve, **settings: Any) -> Traced:
    exporter = InMemorySpanExporter()
    tracing = Tracing(exporter)
    return Traced(await serve(tracing=tracing, **settings), exporter, tracing)


@contextmanager
def logged() -> Iterator[io.StringIO]:
    """What a process would write to standard error meanwhile."""
    stream = io.StringIO()
    handler, root = logs.json_lines(stream), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel("DEBUG")
    logging.getLogger("httpx").setLevel("WARNING")  # the tests' own client, which logs addresses
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        logging.getLogger("httpx").setLevel("NOTSET")


async def test_each_stop_has_a_span_under_its_request(serve: Serve) -> None:
    house = await traced(serve)
    reply = await house.service.embed(input="a text")
    request, admission, generate, pool = house.spans()
    assert [request.name, admission.name, generate.name, pool.name] == [
        "POST /embed",
        "admission",
        "generate",
        "pool",
    ]
    for stop in (admission, generate, pool):
        assert stop.parent is not None
        assert request.context is not None
        assert stop.parent.span_id == request.context.span_id
    told = dict(request.attributes or {})
    assert told["http.route"] == "/embed"
    assert told["http.response.status_code"] == 200
    assert told["grace.inputs"] == 1
    assert dict(generate.attributes or {})["gen_ai.usage.output_tokens"] == reply["usage"]["completion_tokens"]
    assert request.status.is_unset


async def test_the_callers_trace_goes_on_here_and_its_id_is_in_the_log(serve: Serve) -> None:
    house = await traced(serve)
    with logged() as lines:
        await house.service.client.post("/embed", json={"input": "x"}, headers={**CALLER, "x-request-id": "mine"})
    request = house.named("POST /embed")
    assert request.context is not None
    assert request.parent is not None
    assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)
    [line] = [json.loads(line) for line in lines.getvalue().splitlines() if '"grace.access"' in line]
    assert (line["request_id"], line["trace_id"]) == ("mine", TRACE)
    assert line["span_id"] == f"{request.context.span_id:016x}"


async def test_a_header_that_is_no_traceparent_begins_a_new_trace(serve: Serve) -> None:
    house = await traced(serve)
    for wrong in ("", "00-0-0-00", "x" * 10_000, f"ff-{TRACE}-{PARENT}-01"):
        reply = await house.service.client.post("/embed", json={"input": "x"}, headers={"traceparent": wrong})
        assert reply.status_code == 200
    assert all(span.parent is None for span in house.spans() if span.name == "POST /embed")


async def test_a_search_has_spans_for_its_query_and_for_the_search(serve: Serve) -> None:
    house = await traced(serve)
    client = house.service.client
    await client.put("/indexes/notes")
    documents = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]
    assert (await client.post("/indexes/notes/documents", json={"documents": documents, "wait": True})).is_success
    assert (await client.post("/search", json={"index": "notes", "query": "which?"}, headers=CALLER)).is_success
    assert [span.name for span in house.spans() if span.context and f"{span.context.trace_id:032x}" == TRACE] == [
        "POST /search",
        "admission",
        "generate",
        "pool",
        "search",
    ]
    # Documents are embedded in the background, for as long as it takes: that is no part of a request.
    assert sum(span.name == "generate" for span in house.spans()) == 1
    assert house.service.metric("grace_search_seconds_count", method="dense") == 1


async def test_refusals_have_spans_with_their_reason(serve: Serve) -> None:
    house = await traced(serve, api_keys="key", max_body_mib=0.001)
    key = {"authorization": "Bearer key"}
    send = house.service.client.post
    await send("/embed", json={"input": "x"})
    await send("/embed", json={"input": "x", "n": 0}, headers=key)
    await send("/embed", content=b"x" * 2000, headers=key)
    await send("/none", headers=key)
    kinds = [(span.name, dict(span.attributes or {})["error.type"]) for span in house.spans()]
    assert kinds == [
        ("POST", "invalid_api_key"),
        ("POST /embed", "invalid_value"),
        ("POST", "too_large"),
        ("POST", "not_found"),
    ]
    assert not any(span.status.is_ok for span in house.spans())


async def test_a_full_queue_is_seen_in_the_span_of_admission(serve: Serve) -> None:
    house = await traced(serve, seconds=0.3, max_running_requests=1, max_queued_requests=0, max_inputs=1, max_samples=1)
    first = asyncio.create_task(house.service.embed(input="one"))
    await until(lambda: house.service.metric("grace_running_requests") == 1)
    await house.service.embed(429, input="two")
    await first
    [refused] = [span for span in house.spans() if span.name == "admission" and not span.status.is_unset]
    assert dict(refused.attributes or {})["error.type"] == "Overloaded"


async def test_a_failed_generation_is_seen_where_it_failed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    house = await traced(serve)

    async def broken(_: object) -> None:
        raise KeyError("words of the text")

    monkeypatch.setattr(house.service.engine, "represent", broken)
    await house.service.embed(500, input="x")
    for name in ("generate", "POST /embed"):
        span = house.named(name)
        assert dict(span.attributes or {})["error.type"] == "KeyError"
        assert not span.events, "an exception's event would quote it"


async def test_a_client_that_leaves_ends_its_spans(serve: Serve) -> None:
    house = await traced(serve, seconds=20, live=True)
    with pytest.raises(httpx.ReadTimeout):
        await house.service.client.post("/embed", json={"input": "x"}, timeout=0.3)
    await until(lambda: house.service.engine.cancelled == 1)
    await until(lambda: len(house.spans()) == 3)
    assert dict(house.named("POST /embed").attributes or {})["error.type"] == "client_closed_request"
    assert dict(house.named("generate").attributes or {})["error.type"] == "CancelledError"


async def test_a_client_that_leaves_in_the_midst_of_a_stream_ends_its_spans(serve: Serve) -> None:
    house = await traced(serve, seconds=20, live=True)
    async with house.service.client.stream("POST", "/embed", json={"input": "x", "stream": True}) as reply:
        await anext(reply.aiter_lines())
    await until(lambda: len(house.spans()) == 3)
    assert dict(house.named("POST /embed").attributes or {})["error.type"] == "client_closed_request"


async def test_a_stream_is_traced_to_its_end(serve: Serve) -> None:
    house = await traced(serve, seconds=0.2)
    reply = await house.service.client.post("/embed", json={"input": "x", "stream": True})
    assert "event: done" in reply.text
    request, generate = house.named("POST /embed"), house.named("generate")
    assert (request.end_time or 0) >= (generate.end_time or 0)
    assert (generate.end_time or 0) - (generate.start_time or 0) >= 0.15e9
    assert house.named("pool").status.is_unset


async def test_a_text_that_waits_for_anothers_generation_says_so(serve: Serve) -> None:
    house = await traced(serve, seconds=0.2, cache=False)
    await asyncio.gather(*(house.service.embed(input="the same") for _ in range(2)))
    assert [span.name for span in house.spans()].count("generate") == 1
    assert house.named("shared").parent is not None


async def test_probes_and_scrapes_are_not_traced(serve: Serve) -> None:
    house = await traced(serve)
    for path in ("/livez", "/readyz", "/health", "/metrics"):
        assert (await house.service.client.get(path)).status_code == 200
    assert house.spans() == []


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings", "/explain", "/search"])
async def test_private_words_are_in_no_span_no_log_line_and_no_metric(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Given as text, rationale, id, metadata, unknown field or query string; answered well, badly, not at all."""
    house, secret = await traced(serve, cache=False), "Zyxomel"
    client = house.service.client
    text = f"{secret} is ill"
    good: dict[str, Any] = {
        "/embed": {"input": text, "rationale": f"<think>{secret}</think>{secret}"},
        "/v1/embeddings": {"input": text, "model": "tiny", "user": secret, "rationale": True},
        "/explain": {"first": text, "second": text},
        "/search": {
            "index": "notes",
            "query": text,
            "filter": {"field": "patient", "operator": "==", "value": secret},
            "explain": True,
        },
    }[path]
    await client.put("/indexes/notes")
    with logged() as lines:
        documents = {"documents": [{"id": secret, "text": text, "metadata": {"patient": secret}}], "wait": True}
        await client.post("/indexes/notes/documents", json=documents)
        await client.get(f"/indexes/notes/documents/{secret}")
        statuses = [
            (await client.post(path, json=good)).status_code,
            (await client.post(path, json={**good, secret: secret, "dimensions": secret})).status_code,
            (await client.post(path, content=f'{{"{secret}')).status_code,
            (await client.post(f"{path}?q={secret}", json={"input": [text], "model": secret})).status_code,
            (await client.post(f"/{secret}", json=good)).status_code,
        ]

        async def broken(job: Any) -> None:
            raise KeyError(job.text)

        monkeypatch.setattr(house.service.engine, "represent", broken)
        statuses.append((await client.post(path, json=good)).status_code)
    assert statuses[0] == 200
    assert statuses[-1] == 500
    spans = house.spans()
    assert len(spans) >= len(statuses)
    metrics = (await client.get("/metrics")).text
    for kind, told in (
        ("spans", "\n".join(span.to_json() for span in spans)),
        ("log", lines.getvalue()),
        ("metrics", metrics),
    ):
        assert told
        assert secret.lower() not in told.lower(), kind


class _Collector(BaseHTTPRequestHandler):
    """Takes what an OTLP exporter sends."""

    received: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


async def test_spans_go_to_the_collector_that_the_environment_names(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    received: list[ExportTraceServiceRequest] = []
    collector = HTTPServer(("127.0.0.1", 0), type("Collector", (_Collector,), {"received": received}))
    thread = threading.Thread(target=collector.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "embeddings-of-the-library")
        service = await serve(tracing=Tracing(), live=True)
        await service.embed(input="a text")
        await serve()  # the first one stops, and sends what it still holds
    finally:
        await asyncio.to_thread(collector.shutdown)
        thread.join()
        collector.server_close()
    [resource] = [resource for request in received for resource in request.resource_spans]
    names = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert names["service.name"] == "embeddings-of-the-library"
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == [
        "admission",
        "generate",
        "pool",
        "POST /embed",
    ]


async def test_without_a_collector_requests_and_the_stop_go_on(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    logging.getLogger("opentelemetry").setLevel("CRITICAL")
    service = await serve(tracing=Tracing(), live=True)
    await service.embed(input="a text")
    async with asyncio.timeout(8):
        await serve()


def test_it_is_off_and_not_even_imported_unless_asked_for() -> None:
    code = "import sys, grace_server.cli; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert Settings().tracing is False


def test_asking_for_it_without_its_packages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grace_server.settings.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install '\.\[tracing\]'"):
        Settings(tracing=True)
