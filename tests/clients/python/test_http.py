"""What happens between a client and the server: keys, ids, retries, timeouts, errors."""

from __future__ import annotations

import datetime
import json
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import grace_client
from grace_client import (
    ApiError,
    AuthenticationFailed,
    BadAnswer,
    Conflict,
    ConnectionFailed,
    Document,
    GraceClient,
    GraceError,
    InvalidValue,
    NotFound,
    Overloaded,
    Retries,
    ServerFailed,
    TimedOut,
    TooLarge,
    Unavailable,
)
from tests.clients.python.conftest import Client, at_once
from tests.clients.python.house import House

Answers = Callable[[httpx.Request], httpx.Response]
READY = {"status": "ready"}
EMBEDDED = {
    "model": "m",
    "fingerprint": "f",
    "data": [
        {
            "index": 0,
            "embedding": [1.0, 0.0],
            "rationale": None,
            "input_tokens": 1,
            "truncated": False,
            "cached": False,
            "consistency": None,
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1},
}


def refusal(status: int, code: str = "some_code", **headers: str) -> httpx.Response:
    error = {"message": "no", "type": "some_error", "param": "some.field", "code": code}
    return httpx.Response(status, headers=headers, json={"error": error})


def one_after_the_other(*answers: httpx.Response | Exception) -> tuple[Answers, list[httpx.Request]]:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        next_one = answers[min(len(seen), len(answers)) - 1]
        if isinstance(next_one, Exception):
            raise next_one
        return httpx.Response(next_one.status_code, headers=next_one.headers, content=next_one.content)

    return answer, seen


async def test_a_key_is_sent_and_a_missing_one_is_an_error_of_its_own(
    client_of: Client, house_with: Callable[..., House]
) -> None:
    house = house_with(api_keys=("secret",))
    assert (await client_of(house, api_key="secret")("info")).model == "tiny"
    with pytest.raises(AuthenticationFailed) as caught:
        await client_of(house)("info")
    assert caught.value.code == "invalid_api_key"
    assert await client_of(house)("ready")


async def test_url_and_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRACE_CLIENT_URL", "http://there:1234/behind/")
    monkeypatch.setenv("GRACE_CLIENT_API_KEY", "secret")
    answer, seen = one_after_the_other(httpx.Response(200, json=EMBEDDED))
    with GraceClient(transport=httpx.MockTransport(answer), headers={"x-tenant": "us"}) as client:
        client.embed("x")
    [request] = seen
    assert str(request.url) == "http://there:1234/behind/embed"
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["x-tenant"] == "us"
    assert request.headers["user-agent"].startswith("grace-client")


@pytest.mark.parametrize("key", ["secret\n", " secret ", "\tsecret\r\n"])
async def test_space_around_a_key_is_no_part_of_it(client_of: Client, key: str) -> None:
    answer, seen = one_after_the_other(httpx.Response(200, json=READY))
    assert await client_of(answer, api_key=key)("ready")
    assert seen[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("key", ["sec\nret", "sec ret", "secret\u2026", "\u200bsecret", " "])
def test_a_key_that_no_header_holds_is_refused_at_once_and_not_named(client_of: Client, key: str) -> None:
    with pytest.raises(ValueError, match="characters that a header cannot") as caught:
        client_of(lambda _: httpx.Response(200), api_key=key)
    assert "sec" not in str(caught.value)
    assert not isinstance(caught.value, UnicodeError)  # which holds what it could not encode


async def test_a_header_that_cannot_be_sent_is_in_no_error(client_of: Client) -> None:
    answer, _ = one_after_the_other(httpx.LocalProtocolError("Illegal header value b'secret '"))
    with pytest.raises(ConnectionFailed) as caught:
        await client_of(answer)("info")
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_url_without_a_scheme_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="http://"):
        GraceClient("localhost:8000")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, grace_client.BadRequest),
        (401, AuthenticationFailed),
        (404, NotFound),
        (405, grace_client.BadRequest),
        (409, Conflict),
        (413, TooLarge),
        (418, ApiError),
        (422, InvalidValue),
        (429, Overloaded),
        (500, ServerFailed),
        (502, ServerFailed),
        (503, Unavailable),
    ],
)
async def test_each_status_is_an_error_with_all_that_was_told(
    client_of: Client, status: int, kind: type[ApiError]
) -> None:
    answer, _ = one_after_the_other(refusal(status, **{"x-request-id": "abc", "retry-after": "7"}))
    with pytest.raises(ApiError) as caught:
        await client_of(answer)("embed", "x")
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.type, error.code, error.param) == (status, "some_error", "some_code", "some.field")
    assert (error.request_id, error.retry_after_s) == ("abc", 7.0)
    assert str(error) == f"no ({status} some_code, request abc)"


@pytest.mark.parametrize(
    "body", [b"<html>Bad gateway</html>", b"[]", b'{"error": "text"}', b"\xff", b'{"error": {"message": 1}}']
)
async def test_what_a_proxy_answers_is_an_error_too(client_of: Client, body: bytes) -> None:
    with pytest.raises(ServerFailed) as caught:
        await client_of(lambda _: httpx.Response(502, content=body))("info")
    assert (caught.value.code, caught.value.status) == ("unknown", 502)
    assert caught.value.request_id


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"{}", b'{"data": 3}'])
async def test_an_answer_of_something_else_is_named_as_such(client_of: Client, body: bytes) -> None:
    with pytest.raises(BadAnswer, match="no Embeddings of a GRACE server"):
        await client_of(lambda _: httpx.Response(200, content=body))("embed", "x")
    with pytest.raises(BadAnswer, match="no stream of events"):
        await client_of(lambda _: httpx.Response(200, content=body)).embed_stream("x", print)


@pytest.mark.parametrize("vector", ['["a", 0.0]', "[null, 1.0]", f"[{10**400}]"], ids=["text", "null", "too large"])
async def test_a_vector_that_is_none_is_a_bad_answer(client_of: Client, vector: str) -> None:
    body = json.dumps(EMBEDDED).replace("[1.0, 0.0]", vector)
    with pytest.raises(BadAnswer, match=r"data\.0\.embedding: .*a vector must be numbers"):
        await client_of(lambda _: httpx.Response(200, content=body))("embed", "x")


async def test_requests_carry_an_id_that_errors_name_even_without_an_answer(client_of: Client) -> None:
    answer, seen = one_after_the_other(httpx.ReadTimeout("late"), httpx.ReadError("gone"))
    client = client_of(answer)
    with pytest.raises(TimedOut) as late:
        await client("embed", "x")
    with pytest.raises(ConnectionFailed) as gone:
        await client("embed", "x")
    assert [late.value.request_id, gone.value.request_id] == [r.headers["x-request-id"] for r in seen]
    assert late.value.request_id in str(late.value)
    assert isinstance(late.value, GraceError)


@pytest.mark.parametrize(
    ("trouble", "attempts"),
    [
        (refusal(429, **{"retry-after": "0"}), 4),
        (refusal(503), 4),
        (refusal(502), 4),
        (refusal(504), 4),
        (refusal(500, "engine_error"), 4),
        (httpx.ConnectError("refused"), 4),
        (httpx.ConnectTimeout("nobody"), 4),
        (httpx.ReadError("cut off"), 4),
        (httpx.ReadTimeout("late"), 1),
        (refusal(500, "internal_error"), 1),
        (refusal(422), 1),
        (refusal(429, **{"retry-after": "3600"}), 1),
    ],
)
async def test_what_may_be_repeated_is_and_nothing_else(
    client_of: Client, trouble: httpx.Response | Exception, attempts: int
) -> None:
    answer, seen = one_after_the_other(trouble)
    with pytest.raises(GraceError):
        await client_of(answer, retries=at_once())("embed", "x")
    assert len(seen) == attempts
    assert len({request.headers["x-request-id"] for request in seen}) == 1
    assert len({request.content for request in seen}) == 1


@pytest.mark.parametrize(
    ("trouble", "attempts"),
    [(httpx.ReadError("cut off"), 1), (refusal(502), 1), (httpx.ConnectError("refused"), 4), (refusal(503), 4)],
)
async def test_what_does_harm_twice_is_repeated_only_if_nothing_was_done(
    client_of: Client, trouble: httpx.Response | Exception, attempts: int
) -> None:
    answer, seen = one_after_the_other(trouble)
    with pytest.raises(GraceError):
        await client_of(answer, retries=at_once())("http.request", "POST", "/somewhere", body={})
    assert len(seen) == attempts


async def test_a_repeated_request_may_well_succeed(client_of: Client) -> None:
    answer, _ = one_after_the_other(refusal(503), httpx.ReadError(""), httpx.Response(200, json=EMBEDDED))
    assert (await client_of(answer, retries=at_once())("embed", "x"))[0].numbers == [1.0, 0.0]


async def test_it_waits_as_long_as_it_was_asked_to(client_of: Client) -> None:
    answer, _ = one_after_the_other(refusal(429, **{"retry-after": "1"}), httpx.Response(200, json=EMBEDDED))
    began = time.monotonic()
    await client_of(answer, retries=Retries())("embed", "x")
    assert 1.0 <= time.monotonic() - began < 3.0


@pytest.mark.parametrize(("attempts", "asked"), [(4, 9), (1, 1)])
async def test_an_upload_waits_for_room_as_often_as_it_is_told_to(client_of: Client, attempts: int, asked: int) -> None:
    """Eight refusals, of which none costs one of four attempts; who wants one attempt gets one."""
    job = {"id": "1", "state": "done", "total": 1, "done": 1, "failed": 0, "superseded": 0, "left": 0, "rate": None}
    job |= {"seconds_left": None, "created_at": 0, "finished_at": 0, "failures": []}
    written = httpx.Response(200, json={"documents": 1, "unchanged": 0, "job": job})
    full = refusal(429, **{"retry-after": "0"})
    answer, seen = one_after_the_other(*[full] * 8, written)
    client = client_of(answer, retries=at_once(attempts))
    if attempts > 1:
        assert (await client("documents.upload", "papers", [Document("1", "x")])).written == 1
    else:
        with pytest.raises(Overloaded):
            await client("documents.upload", "papers", [Document("1", "x")])
    assert len(seen) == asked


@pytest.mark.parametrize(
    ("trouble", "asked"),
    [(refusal(429), 4), (refusal(429, **{"retry-after": "3600"}), 1), (refusal(503, **{"retry-after": "0"}), 4)],
)
async def test_an_upload_does_not_wait_for_ever_for_anything_else(
    client_of: Client, trouble: httpx.Response, asked: int
) -> None:
    answer, seen = one_after_the_other(trouble)
    with pytest.raises(ApiError):
        await client_of(answer, retries=at_once())("documents.upload", "papers", [Document("1", "x")])
    assert len(seen) == asked


async def test_what_no_url_can_hold_is_said_before_it_is_sent(client_of: Client) -> None:
    answer, seen = one_after_the_other(httpx.Response(200, json={"data": [], "next": None}))
    many = {"field": "id", "operator": "in", "value": [f"{i:036}" for i in range(2000)]}
    with pytest.raises(ValueError, match="does not fit into a URL"):
        await client_of(answer)("documents.list", "papers", filter=many)
    assert not seen


@pytest.mark.parametrize("value", [datetime.date(2026, 1, 1), float("nan")])
async def test_a_filter_that_json_has_no_form_for_is_said_before_it_is_sent(client_of: Client, value: object) -> None:
    answer, seen = one_after_the_other(httpx.Response(200, json={"data": [], "next": None}))
    with pytest.raises(ValueError, match="JSON"):
        await client_of(answer)("documents.list", "papers", filter={"field": "a", "operator": "==", "value": value})
    assert not seen


async def test_a_full_server_is_waited_for_until_all_is_through(
    client_of: Client, house_with: Callable[..., House]
) -> None:
    """Back-pressure from end to end: room for two texts, four are sent at once."""
    house = house_with(
        seconds=0.05, cache=False, max_running_requests=1, max_queued_requests=1, max_inputs=1, max_samples=1
    )
    patient = Retries(attempts=40, first_wait_s=0.05)
    vectors = await client_of(house, retries=patient)(
        "encode", [f"Text {i}." for i in range(8)], batch_size=1, at_once=4
    )
    assert vectors.shape == (8, 64)
    assert len(house.requests) > 8


async def test_the_timeout_is_kept(client_of: Client, listening: House) -> None:
    listening.engine._seconds = 5.0
    try:
        with GraceClient(listening.url, timeout=0.3) as client, pytest.raises(TimedOut):
            client.embed("a text that was never sent before")
    finally:
        listening.engine._seconds = 0.0


def test_nobody_at_home_is_a_connection_that_failed() -> None:
    with GraceClient("http://127.0.0.1:9", retries=at_once(2)) as client:
        with pytest.raises(ConnectionFailed) as caught:
            client.embed("x")
        assert not caught.value.arrived
        assert not client.ready()
        assert not client.live()
        with pytest.raises(TimedOut, match="not ready"):
            client.wait_until_ready(timeout_s=0.1, poll_s=0.05)


async def test_readiness_is_waited_for(client_of: Client) -> None:
    answer, seen = one_after_the_other(refusal(503), httpx.ConnectError(""), httpx.Response(200, json=READY))
    client = client_of(answer)
    assert not await client("ready")
    await client("wait_until_ready", poll_s=0.0)
    assert len(seen) == 3
    answer, _ = one_after_the_other(refusal(401))
    with pytest.raises(AuthenticationFailed):
        await client_of(answer)("ready")


async def test_service_tells_about_itself(client_of: Client, house: House) -> None:
    client = client_of(house)
    info = await client("info")
    assert (info.model, info.limits.dimensions) == ("tiny", 64)
    assert "grace_requests" in await client("metrics")
    assert await client("live")
    assert await client("ready")


async def test_a_broken_stream_is_no_embedding(client_of: Client) -> None:
    stream = b'event: rationale\ndata: {"index":0,"delta":"half"}\n\n'
    pieces: list[str] = []
    with pytest.raises(ConnectionFailed, match="broke off"):
        await client_of(
            lambda _: httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream)
        ).embed_stream("x", pieces.append)
    assert pieces == ["half"]


async def test_bodies_are_json_that_any_server_can_read(client_of: Client) -> None:
    answer, seen = one_after_the_other(httpx.Response(200, json=EMBEDDED))
    client = client_of(answer)
    await client("embed", "Grüße \ud800")
    await client("embed", "Grüße")
    assert json.loads(seen[0].content)["input"] == "Grüße \ud800"
    assert "Grüße".encode() in seen[1].content
    with pytest.raises(ValueError, match="JSON"):
        await client("documents.upsert", "papers", [Document("1", vector=[float("nan")])])
    with pytest.raises(ValueError, match="date is not JSON"):
        await client("documents.upload", "papers", [Document("1", "x", {"written": datetime.date(1990, 1, 1)})])
    assert len(seen) == 2


async def test_one_text_is_no_list_of_texts(client_of: Client) -> None:
    answer, seen = one_after_the_other(httpx.Response(200, json=EMBEDDED))
    client = client_of(answer)
    with pytest.raises(ValueError, match="queries must be a list of texts"):
        await client("search_each", "Who built?")
    with pytest.raises(ValueError, match="texts must be a list of texts"):
        await client("embed_each", "text")
    assert not seen


def test_a_closed_client_is_closed() -> None:
    answer, _ = one_after_the_other(httpx.Response(200, json=EMBEDDED))
    with GraceClient("http://grace", transport=httpx.MockTransport(answer)) as client:
        client.embed("x")
    with pytest.raises(RuntimeError):
        client.embed("x")


def test_errors_of_retries_are_never_swallowed() -> None:
    """The last error is the one that is raised, as it came."""
    errors: list[Any] = [refusal(503, "loading"), refusal(503, "draining")]
    answer, _ = one_after_the_other(*errors)
    with GraceClient("http://grace", transport=httpx.MockTransport(answer), retries=at_once(2)) as client:
        with pytest.raises(Unavailable) as caught:
            client.info()
        assert caught.value.code == "draining"


def test_a_server_that_takes_connections_and_says_nothing_is_waited_for_no_longer_than_was_said() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        GraceClient(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=8.0) as client,
    ):
        began = time.monotonic()
        with pytest.raises(TimedOut, match="not ready"):
            client.wait_until_ready(timeout_s=0.3, poll_s=0.05)
        assert time.monotonic() - began < 4.0
