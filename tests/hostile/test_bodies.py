"""Bodies that are JSON, and nothing anyone would send: refused in the envelope or served, on every route with one."""

from __future__ import annotations

import json
import string
import time
from typing import Any

import pytest

from grace_server.errors import ErrorBody
from tests.server.conftest import Serve, Service

DEEP = {depth: b'{"a":' * depth + b"1" + b"}" * depth for depth in (50, 400, 900, 20_000)}
FIELDS: dict[tuple[str, str], list[str]] = {
    ("POST", "/embed"): ["input", "rationale", "role", "anything"],
    ("POST", "/v1/embeddings"): ["input", "user", "anything"],
    ("POST", "/search"): ["query", "filter", "vector"],
    ("POST", "/explain"): ["query", "document"],
    ("PUT", "/indexes/a"): ["settings"],
    ("POST", "/indexes/a/documents"): ["documents"],
}


async def send(service: Service, method: str, path: str, content: bytes) -> int:
    begin = time.monotonic()
    reply = await service.client.request(method, path, content=content, headers={"content-type": "application/json"})
    assert time.monotonic() - begin < 5  # wrong in many places is refused at the first
    if reply.status_code >= 400:
        ErrorBody.model_validate_json(reply.content)
    return reply.status_code


async def refusals(service: Service, hostile: bytes) -> set[int]:
    """The statuses of putting a value where a route expects another."""
    found = set()
    for (method, path), fields in FIELDS.items():
        for field in fields:
            found.add(await send(service, method, path, b'{"%s": %s}' % (field.encode(), hostile)))
        found.add(await send(service, method, path, hostile))
    return found


@pytest.mark.parametrize("depth", list(DEEP))
async def test_depth_is_refused_on_every_route(serve: Serve, depth: int) -> None:
    service = await serve()
    assert await refusals(service, DEEP[depth]) <= {400, 404, 413, 422}
    nested = b'{"documents": [{"id": "x", "text": "y", "metadata": %s}]}' % DEEP[depth]
    assert (await service.client.put("/indexes/b", json={})).status_code == 201
    assert await send(service, "POST", "/indexes/b/documents", nested) in {400, 422}
    condition = b'{"operator": "NOT", "conditions": [' * depth + b"1" + b"]}" * depth
    search = b'{"index": "b", "query": "x", "filter": %s}' % condition
    assert await send(service, "POST", "/search", search) in {400, 422}


@pytest.mark.parametrize(
    "hostile",
    [
        b"1" * 4000,
        b"-" + b"9" * 4299,
        b"1e400",
        b"NaN",
        b"-Infinity",
        b'"' + b"\\u0000" * 50 + b'"',
        b'"\\ud800\\udc00\\ud800"',
        b"[" + b"0," * 100_000 + b"0]",
        b"{" + b",".join(b'"k%d": 0' % i for i in range(50_000)) + b"}",
        b'{"__class__": "os.system", "__proto__": {"a": 1}, "$ref": "#/x"}',
        b'["' + b"x" * 100_000 + b'"]',
    ],
    ids=["long number", "longest number", "inf", "nan", "-inf", "NUL", "surrogates", "many", "wide", "magic", "long"],
)
async def test_odd_values_are_refused_or_served_and_break_nothing(serve: Serve, hostile: bytes) -> None:
    service = await serve()
    assert not [status for status in await refusals(service, hostile) if status >= 500]
    assert (await service.embed(input="still there"))["data"]


async def test_texts_of_control_characters_come_back_as_they_are(serve: Serve) -> None:
    service = await serve()
    controls = "".join(map(chr, [*range(32), 127, *range(0x80, 0xA0), 0xFEFF, 0x202E, 0x2066, 0xFFFF, 0x10FFFF]))
    terminal, header = "\x1b[2J\x1b]0;owned\x07", "\r\nset-cookie: a=b\r\n\r\n<script>"
    for text in (controls, f"a{controls}b. c", terminal, header, *string.whitespace):
        [item] = (await service.embed(input=text, explain=True))["data"]
        spelled = "".join(s["text"] for s in item["segments"] if s["source"] == "input")
        assert spelled == text


async def test_a_name_id_or_header_cannot_forge_a_line_of_the_log_or_a_header(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    service = await serve()
    forged = '%0d%0aset-cookie:%20a=b%0d%0a{"level":"ERROR","message":"forged"}'
    with caplog.at_level("INFO"):
        for path in (f"/indexes/{forged}", f"/jobs/{forged}", f"/v1/models/{forged}", f"/indexes/a/documents/{forged}"):
            reply = await service.client.get(path)
            assert reply.status_code in (404, 422)
            assert "set-cookie" not in reply.headers
    ours = [record.__dict__ for record in caplog.records if record.name.startswith("grace")]
    assert len(ours) == 4
    assert "forged" not in json.dumps(ours, default=str)


async def test_sql_and_paths_in_names_are_names(serve: Serve, tmp_path: Any) -> None:
    service = await serve()
    for name in ("..", "../../etc", "a'; DROP TABLE document; --", "a%00b", ".lock", "new-x", "%2e%2e"):
        reply = await service.client.put(f"/indexes/{name}", json={})
        assert reply.status_code in (201, 404, 405, 422, 307), (name, reply.text)
    outside = [p for p in tmp_path.iterdir() if p.name not in ("data", "models")]
    assert not outside
