"""Pages from other origins: none may read anything, unless the settings name its origin."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from grace_server.settings import Settings
from tests.server.conftest import Serve

PAGE = "https://app.example.org"
ASKS_FIRST = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


async def test_without_the_setting_no_other_page_is_told_that_it_may_read(serve: Serve) -> None:
    service = await serve()
    reply = await service.client.post("/embed", json={"input": "x"}, headers={"origin": PAGE})
    assert "access-control-allow-origin" not in reply.headers
    assert (await service.client.options("/embed", headers=ASKS_FIRST)).status_code == 405


async def test_a_named_page_may_ask_and_is_not_asked_for_a_key_before_it_can_send_one(serve: Serve) -> None:
    service = await serve(cors_origins=f"{PAGE}, http://localhost:3000", api_keys="a-key")
    allowed = await service.client.options("/embed", headers=ASKS_FIRST)
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == PAGE
    assert {"authorization", "content-type"} <= set(allowed.headers["access-control-allow-headers"].split(","))
    key = {"authorization": "Bearer a-key", "origin": PAGE}
    reply = await service.client.post("/embed", json={"input": "x"}, headers=key)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in reply.headers["access-control-expose-headers"]


async def test_a_named_page_can_read_why_it_is_refused(serve: Serve) -> None:
    service = await serve(cors_origins=PAGE, api_keys="a-key")
    reply = await service.client.post("/embed", json={"input": "x"}, headers={"origin": PAGE})
    assert reply.status_code == 401
    assert reply.headers["access-control-allow-origin"] == PAGE


async def test_what_a_browser_asks_first_has_an_id_too(serve: Serve) -> None:
    service = await serve(cors_origins=PAGE)
    for asked in (ASKS_FIRST, ASKS_FIRST | {"origin": "https://evil.example"}):
        reply = await service.client.options("/embed", headers=asked | {"x-request-id": "abc-1"})
        assert reply.headers.get_list("x-request-id") == ["abc-1"]


async def test_a_named_page_can_read_an_error_that_nobody_expected(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await serve(cors_origins=PAGE, cache=False)

    async def broken(_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(service.engine, "represent", broken)
    reply = await service.client.post("/embed", json={"input": "x"}, headers={"origin": PAGE})
    assert reply.status_code == 500
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert reply.headers["x-request-id"] in reply.json()["error"]["message"]


async def test_a_page_that_is_not_named_may_not(serve: Serve) -> None:
    service = await serve(cors_origins=PAGE)
    other = ASKS_FIRST | {"origin": "https://app.example.org.evil.example"}
    assert (await service.client.options("/embed", headers=other)).status_code == 400
    reply = await service.client.post("/embed", json={"input": "x"}, headers={"origin": other["origin"]})
    assert "access-control-allow-origin" not in reply.headers


async def test_a_star_is_every_page(serve: Serve) -> None:
    service = await serve(cors_origins="*")
    reply = await service.client.post("/embed", json={"input": "x"}, headers={"origin": PAGE})
    assert reply.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("origin", ["app.example.org", "https://app.example.org/", "ftp://a.example", "null"])
def test_what_is_no_origin_is_no_setting(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=origin)  # type: ignore[arg-type]
