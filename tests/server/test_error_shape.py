"""Every error, on every route, has the one envelope and a request id."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import pytest

from grace import errors as core_errors
from grace_server import errors
from grace_server.app import _always_open
from grace_server.errors import ApiError, translate
from tests.server.conftest import Serve, until


def assert_envelope(reply: httpx.Response) -> dict[str, Any]:
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"]
    body = reply.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


RUBBISH: list[tuple[bytes, int]] = [
    (b"{", 400),
    (b"", 400),
    (b"[]", 400),
    (b'"text"', 400),
    (b"null", 400),
    (b"\xff\xfe{\x00}\x00", 400),
    (b'{"input": "\xff"}', 400),
    (b"[" * 200_000, 400),
    (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    (b'{"input": "x", "temperature": NaN}', 422),
    (b'{"input": "x", "temperature": 1e999}', 422),
    (b'{"input": "x", "n": ' + b"9" * 4000 + b"}", 422),
    (b'{"input": "x", "n": ' + b"9" * 5000 + b"}", 400),
    (b'{"input": "x", "\\ud800": 1}', 422),
    (b'{"input": {"a": {"b": [1]}}}', 422),
    (b'{"input": "x", "input": 1}', 422),
]


@pytest.mark.parametrize(("body", "status"), RUBBISH, ids=range(len(RUBBISH)))
async def test_rubbish_is_refused_and_never_breaks(serve: Serve, body: bytes, status: int) -> None:
    service = await serve()
    reply = await service.client.post("/embed", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == status, reply.text
    assert_envelope(reply)
    assert service.engine.calls == 0


async def test_a_body_without_its_content_type_is_malformed(serve: Serve) -> None:
    service = await serve()
    reply = await service.client.post("/embed", content=b'{"input": "x"}')
    assert reply.status_code == 400
    assert "content-type" in assert_envelope(reply)["message"]


@pytest.mark.parametrize("text", [r"\ud800", r"a\udc00\ud83d\ude00", r"\uD83D", "\ud800"])
async def test_lone_surrogates_are_read_as_replacement_characters(serve: Serve, text: str) -> None:
    service = await serve()
    content = b'{"explain": true, "input": "%s"}' % text.encode("utf-8", "surrogatepass")
    reply = await service.client.post("/embed", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 200, reply.text
    shown = "".join(s["text"] for s in reply.json()["data"][0]["segments"] if s["source"] == "input")
    assert shown.count("\N{REPLACEMENT CHARACTER}") >= 1
    assert ("😀" in shown) == (r"\ud83d\ude00" in text)


TOKENS, CHARS = "word " * 500, "w" * 3001
FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("/embed", {"input": ["a", TOKENS], "truncate": False}, "input[1]"),
    ("/embed", {"input": [TOKENS], "truncate": False}, "input"),
    ("/embed", {"input": ["a", "b"], "rationale": ["c", "y " * 400]}, "rationale[1]"),
    ("/embed", {"input": ["a", "b"], "rationale": [CHARS, "d"]}, "rationale[0]"),
    ("/embed", {"input": ["a", "b", CHARS]}, "input[2]"),
    ("/embed", {"input": ["a", ""], "pooling": "input"}, "input[1]"),
    ("/v1/embeddings", {"input": ["a", CHARS], "model": "tiny"}, "input[1]"),
    ("/v1/embeddings", {"input": "a", "model": "tiny", "seed": 1}, "seed"),
    ("/v2/embed", {"texts": ["a", TOKENS], "truncate": "NONE"}, "texts[1]"),
    ("/v2/embed", {"texts": ["a"] * 300}, "texts"),
    ("/v2/embed", {"texts": ["a"], "output_dimension": 9999}, "output_dimension"),
    ("/tei/embed", {"inputs": ["a", TOKENS], "truncate": False}, "inputs[1]"),
    ("/tei/similarity", {"inputs": {"source_sentence": CHARS, "sentences": ["b"]}}, "inputs.source_sentence"),
    ("/tei/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b", CHARS]}}, "inputs.sentences[1]"),
    ("/explain", {"first": CHARS, "second": "b"}, "first"),
    ("/explain", {"first": "a", "second": {"text": "b", "rationale": CHARS}}, "second.rationale"),
    ("/explain", {"first": "a", "second": CHARS, "index": "x"}, "second"),
    ("/explain", {"first": "a", "second": {"text": "b", "rationale": CHARS}, "index": "x"}, "second.rationale"),
    ("/explain", {"first": "a", "second": "b", "n": 2, "temperature": 1.0, "tokens": True}, "tokens"),
]


@pytest.mark.parametrize(("path", "body", "param"), FIELDS, ids=[f"{path} {param}" for path, _, param in FIELDS])
async def test_an_error_says_which_field_of_the_request_and_which_text_of_it(
    serve: Serve, path: str, body: dict[str, Any], param: str
) -> None:
    service = await serve(max_input_chars=3000)
    assert (await service.client.put("/indexes/x", json={})).status_code == 201
    reply = await service.client.post(path, json=body)
    assert reply.status_code in (413, 422), reply.text
    error = assert_envelope(reply)
    assert error["param"] == param
    assert error["message"].replace(":", " ").startswith(f"{param} ")
    assert service.engine.calls == 0


@pytest.mark.parametrize("name", ["str", "bool", "x]", "function-x"])
async def test_an_unknown_field_is_named_whatever_its_name(serve: Serve, name: str) -> None:
    service = await serve()
    for body, param in (
        ({"input": "a", name: 1}, name),
        ({"first": "a", "second": {"text": "b", name: 1}}, f"second.{name}"),
    ):
        error = assert_envelope(await service.client.post("/explain" if "first" in body else "/embed", json=body))
        assert error["param"] == param
        assert error["message"].startswith(f"unknown field '{param}'")


async def test_requests_that_share_a_generation_are_each_told_their_own_field(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, reached, go = await serve(cache=False), asyncio.Event(), asyncio.Event()

    async def refused(_: object) -> None:
        reached.set()
        await go.wait()
        raise core_errors.InvalidInput("input holds what this engine cannot read", param="input")

    monkeypatch.setattr(service.engine, "represent", refused)
    bodies = (("/embed", {"input": "x"}), ("/v2/embed", {"texts": ["x"]}), ("/tei/embed", {"inputs": "x"}))
    asked = [asyncio.create_task(service.client.post(path, json=body)) for path, body in bodies]
    await reached.wait()
    await until(lambda: service.metric("grace_shared_total") == 2)
    go.set()
    told = [assert_envelope(reply) for reply in await asyncio.gather(*asked)]
    assert [error["param"] for error in told] == ["input", "texts", "inputs"]
    assert [error["message"].partition(" ")[0] for error in told] == ["input", "texts", "inputs"]


async def test_every_documented_route_answers_rubbish_with_the_envelope(serve: Serve) -> None:
    service = await serve()
    paths = service.app.openapi()["paths"]
    assert {"/embed", "/v1/embeddings", "/v1/models", "/info", "/livez", "/readyz", "/health"} <= set(paths)
    for path, operations in paths.items():
        place = path.replace("{", "").replace("}", "")
        for method in ("get", "put", "post", "delete", "patch"):
            reply = await service.client.request(
                method, place, content=b"{rubbish", headers={"content-type": "application/json"}
            )
            if method in operations:
                assert reply.status_code < 500 or reply.status_code == 503, (path, method, reply.text)
            else:
                assert reply.status_code in (404, 405), (path, method)
            if reply.status_code >= 400:
                assert_envelope(reply)
    assert_envelope(await service.client.get("/nowhere"))


async def test_every_route_documents_the_envelope(serve: Serve) -> None:
    service = await serve()
    for path, operations in service.app.openapi()["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}, (path, method, status)


async def test_every_route_that_may_be_refused_unread_documents_it(serve: Serve) -> None:
    service = await serve()
    behind_the_gate = [path for path in service.app.openapi()["paths"] if not _always_open(path)]
    assert "/indexes/{name}" in behind_the_gate
    for path in behind_the_gate:
        for operation in service.app.openapi()["paths"][path].values():
            assert {"429", "503"} <= operation["responses"].keys(), path


async def test_an_unexpected_error_says_its_request_id_and_nothing_more(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = await serve(cache=False)

    async def broken(_: object) -> None:
        raise KeyError("the secret words of the text")

    monkeypatch.setattr(service.engine, "represent", broken)
    with caplog.at_level(logging.INFO):
        reply = await service.client.post("/embed", json={"input": "x"}, headers={"x-request-id": "abc-1"})
    assert reply.status_code == 500
    assert assert_envelope(reply)["message"] == "internal error, request abc-1"
    assert reply.headers["x-request-id"] == "abc-1"
    logged = json.dumps([record.__dict__ for record in caplog.records], default=str)
    assert "KeyError" in logged
    assert "secret" not in logged


async def test_a_failure_of_the_engine_is_500_for_its_text_alone_and_logged_with_its_reason(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = await serve(cache=False)

    async def lost(_: object) -> None:
        raise core_errors.StateMismatch("pooled [3] states per segment, expected [4]")

    with monkeypatch.context() as patched:
        patched.setattr(service.engine, "represent", lost)
        error = (await service.embed(500, input="x"))["error"]
    assert error["code"] == "engine_error"
    assert "pooled" not in error["message"]
    assert "expected [4]" in json.dumps([record.__dict__ for record in caplog.records], default=str)
    assert (await service.embed(input="x"))["data"]


@pytest.mark.parametrize("given", ["x" * 200, "with space", "", 'quo"te', "ü"])
async def test_an_insane_request_id_is_replaced(serve: Serve, given: str) -> None:
    service = await serve()
    reply = await service.client.get("/livez", headers={"x-request-id": given.encode()})  # type: ignore[dict-item]
    assert len(reply.headers["x-request-id"]) == 24


def subclasses(kind: type) -> list[type]:
    return [kind, *(deep for sub in kind.__subclasses__() for deep in subclasses(sub))]


def test_every_error_of_the_core_has_a_row() -> None:
    made: dict[type, Exception] = {
        core_errors.InvalidInput: core_errors.InvalidInput("m", param="p"),
        core_errors.InputTooLong: core_errors.InputTooLong(2, 1),
    }
    rows = {
        kind: translate(made.get(kind) or kind("m"), "id").status
        for kind in subclasses(core_errors.GraceError)
        if kind.__module__ == "grace.errors"
    }
    assert rows[core_errors.InvalidInput] == 422
    assert rows[core_errors.InputTooLong] == 413
    assert rows[core_errors.EngineDead] == 503
    assert rows[core_errors.EngineError] == rows[core_errors.StateMismatch] == rows[core_errors.StateNotFinite] == 500


def test_every_error_of_the_service_has_a_status_that_is_documented() -> None:
    for kind in subclasses(ApiError):
        if kind is not errors.Departed and kind.__module__.startswith("grace_server"):
            assert kind.status in errors._DESCRIPTIONS, kind
