"""Bodies that are JSON, and nothing anyone would send: refused in the envelope or served, on every route with one."""

from __future__ import annotations

import asyncio
import json
import re
import string
import time
from typing import Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st

from grace_server.errors import ErrorBody
from grace_server.middleware.body import mend
from tests.hostile.operations import HERE, NAME, Operation, body, operations
from tests.server.conftest import Serve, Service

DEEP = {depth: b'{"a":' * depth + b"1" + b"}" * depth for depth in (50, 400, 900, 20_000)}
# Other services' routes: they pass over fields that they do not know, as their clients expect.
GUESTS = {"/v1/embeddings", "/v1/embed", "/v2/embed", "/tei", "/tei/embed", "/tei/similarity"}


async def inhabited(serve: Serve) -> Service:
    """A service with an index, a document and a map of it, so that no route has nothing to do."""
    service = await serve(model_aliases=NAME)
    assert (await service.client.put(f"/indexes/{NAME}", json={})).status_code == 201
    batch = {"documents": [{"id": NAME, "text": NAME}], "wait": True}
    assert (await service.client.post(f"/indexes/{NAME}/documents", json=batch)).status_code == 200
    assert (await service.client.get(f"/indexes/{NAME}/map")).status_code == 200
    return service


async def send(service: Service, method: str, path: str, content: bytes) -> int:
    begin = time.monotonic()
    reply = await service.client.request(method, path, content=content, headers={"content-type": "application/json"})
    assert time.monotonic() - begin < 5  # wrong in many places is refused at the first
    if reply.status_code >= 400:
        ErrorBody.model_validate_json(reply.content)
    return reply.status_code


def answered(service: Service, operation: Operation) -> float:
    """Requests to the route of an operation that have come to their end, as the service counts them."""
    samples = [sample for metric in service.app.state.metrics.requests.collect() for sample in metric.samples]
    of_route = [s for s in samples if s.name == "grace_requests_total" and s.labels["route"] == operation.route]
    return float(sum(sample.value for sample in of_route))


async def attack(service: Service, hostile: bytes) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
    """Routes and statuses of a value in every place where another is expected, and in a field that is none."""
    known, unknown = set(), set()
    for one in operations(service.app.openapi()):
        before = answered(service, one)
        for place in one.places:
            known.add((one.route, await send(service, one.method, one.path, place.replace(body(HERE), hostile))))
        unknown.add((one.route, await send(service, one.method, one.path, one.unknown.replace(body(HERE), hostile))))
        assert answered(service, one) == before + len(one.places) + 1, one.route
    return known, unknown


def taken(found: set[tuple[str, int]]) -> set[str]:
    """Routes that did not refuse; none broke."""
    assert max(status for _, status in found) < 500, found
    return {route for route, status in found if status < 300}


async def unharmed(service: Service) -> None:
    """Whoever comes next is served, and nothing that was taken is left undone."""
    assert (await service.embed(input="still there"))["data"]
    async with asyncio.timeout(10):
        while (await service.client.get(f"/indexes/{NAME}")).json()["documents"]["pending"]:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


async def test_every_route_with_a_body_is_attacked_and_takes_a_good_one(serve: Serve) -> None:
    service = await inhabited(serve)
    found = operations(service.app.openapi())
    routes = [route for route in service.app.routes if isinstance(route, APIRoute) and route.body_field]
    assert {one.route for one in found} == {route.path for route in routes}
    for one in found:
        # So what is refused later is refused for what is hostile in it, and not for what is around.
        assert await send(service, one.method, one.path, one.good) < 300, one.route


@pytest.mark.parametrize("depth", list(DEEP))
async def test_depth_is_refused_on_every_route(serve: Serve, depth: int) -> None:
    service = await inhabited(serve)
    known, unknown = await attack(service, DEEP[depth])
    assert taken(known) <= {"/tei/similarity"}  # its `parameters` pass over what they do not know
    assert taken(unknown) <= GUESTS
    condition = b'{"operator": "NOT", "conditions": [' * depth + b"1" + b"]}" * depth
    search = b'{"query": "x", "filter": %s}' % condition
    assert await send(service, "POST", "/search", search) in {400, 422}
    await unharmed(service)


@pytest.mark.parametrize(
    "number",
    [b"1" * 4000, b"-" + b"9" * 4299, b"1e400", b"NaN", b"-Infinity"],
    ids=["long", "longest", "inf", "nan", "-inf"],
)
async def test_a_number_that_no_field_can_hold_is_refused_by_every_one(serve: Serve, number: bytes) -> None:
    service = await inhabited(serve)
    known, unknown = await attack(service, number)
    assert not taken(known)
    assert taken(unknown) <= GUESTS
    await unharmed(service)


@pytest.mark.parametrize(
    "hostile",
    [
        b'"' + b"\\u0000" * 50 + b'"',
        b'"\\ud800\\udc00\\ud800"',
        b"[" + b"0," * 100_000 + b"0]",
        b"{" + b",".join(b'"k%d": 0' % i for i in range(50_000)) + b"}",
        b'{"__class__": "os.system", "__proto__": {"a": 1}, "$ref": "#/x"}',
        b'["' + b"x" * 100_000 + b'"]',
    ],
    ids=["NUL", "surrogates", "many", "wide", "magic", "long"],
)
async def test_odd_values_are_refused_or_served_and_break_nothing(serve: Serve, hostile: bytes) -> None:
    service = await inhabited(serve)
    known, unknown = await attack(service, hostile)
    assert taken(known), "one route at least has a place for it"
    assert taken(unknown) <= GUESTS
    await unharmed(service)


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


ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
PARTS = [b"\\", b"\\\\", b"u", b"\\ud83d", b"\\ude00", b"\\uD800", b"ud83d", b"d83d", b"\\ud55c", b"\\n", b'\\"', b"\n"]


@given(body=st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join))
def test_escapes_are_mended_as_one_mends_them_who_reads_every_escape(body: bytes) -> None:
    assert mend(body) == ESCAPE.sub(lambda match: b"\\ufffd" if match[1] else match[0], body)


@pytest.mark.parametrize("unit", [b"\\ud55c", b"the river \\n", b"\\\\ude"], ids=["Korean", "lines", "backslashes"])
def test_escapes_of_other_characters_cost_no_more_than_a_look(unit: bytes) -> None:
    body = unit * (10 * 2**20 // len(unit)) + b"\\ud83d"
    begin = time.thread_time()
    assert mend(body) == body.removesuffix(b"\\ud83d") + b"\\ufffd"
    assert time.thread_time() - begin < 0.5
