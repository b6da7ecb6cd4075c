"""Keys, body limits, probes, request ids, metrics, the description page: what surrounds every route."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from grace.checkpoint import Checkpoint
from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_server.app import create_app
from grace_server.settings import Settings
from tests.server.conftest import Serve, until

KEYS = "first-key,second-key"
PROBES = ("/livez", "/readyz", "/health")


async def test_without_a_key_only_the_probes_answer(serve: Serve) -> None:
    service = await serve(api_keys=KEYS)
    for path in (*service.app.openapi()["paths"], "/docs", "/openapi.json", "/docs-assets/swagger-ui.css", "/none"):
        reply = await service.client.get(path)
        if path in PROBES:
            assert reply.status_code == 200
        else:
            assert reply.status_code == 401, path
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["error"]["code"] == "invalid_api_key"
            assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer first-key", 200),
        ("bearer second-key", 200),
        ("Bearer first-key,second-key", 401),
        ("Bearer third-key", 401),
        ("Bearer ", 401),
        ("Basic first-key", 401),
        ("first-key", 401),
        ("Bearer \N{LATIN SMALL LETTER E WITH ACUTE}", 401),
    ],
)
async def test_any_of_the_keys_opens_and_nothing_else(serve: Serve, header: str, status: int) -> None:
    service = await serve(api_keys=KEYS)
    reply = await service.client.post(
        "/embed",
        json={"input": "x"},
        headers={"authorization": header.encode()},  # type: ignore[dict-item]
    )
    assert reply.status_code == status


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 10_000


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_413_announced_or_not(serve: Serve, announced: bool) -> None:
    service = await serve(max_body_mib=0.01, live=True)
    content = b"x" * 100_000 if announced else chunks(10)
    reply = await service.client.post("/embed", content=content, headers={"content-type": "application/json"})
    assert reply.status_code == 413
    assert "10485 bytes" in reply.json()["error"]["message"]
    assert service.metric("grace_rejections_total", reason="too_large") == 1
    assert (await service.embed(input="still there"))["data"]


async def test_while_loading_the_process_lives_but_is_not_ready(
    checkpoint: Checkpoint, prompter: Prompter, tmp_path_factory: pytest.TempPathFactory
) -> None:
    class Slow(FakeEngine):
        async def start(self) -> None:
            await go_on.wait()

    go_on = asyncio.Event()
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), model=str(checkpoint.folder))
    app = create_app(settings, engine=Slow(prompter), checkpoint=checkpoint)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://grace") as client,
    ):
        assert (await client.get("/livez")).status_code == 200
        for path in ("/readyz", "/health", "/info", "/v1/models"):
            reply = await client.get(path)
            assert reply.status_code == 503, path
            assert reply.json()["error"]["code"] == "loading"
            assert int(reply.headers["retry-after"]) > 0
        assert "grace_ready 0.0" in (await client.get("/metrics")).text
        go_on.set()
        await until(lambda: app.state.life.phase == "ready")
        assert (await client.get("/readyz")).json() == {"status": "ready"}


async def test_metrics_are_all_there_before_the_first_request(serve: Serve) -> None:
    service = await serve()
    text = (await service.client.get("/metrics")).text
    for series in (
        'grace_requests_total{route="/embed",status="200"} 0.0',
        'grace_rejections_total{reason="queue_full"} 0.0',
        'grace_finished_total{reason="length"} 0.0',
        'grace_cache_lookups_total{result="hit"} 0.0',
        "grace_ready 1.0",
        "process_resident_memory_bytes",
    ):
        assert series in text, series
    names = set(re.findall(r"^# TYPE (grace_\w+) (?:counter|histogram)", text, re.MULTILINE))
    assert all(name.endswith(("_total", "_seconds", "_tokens", "_created")) for name in names), names


async def test_metrics_count_what_happened(serve: Serve) -> None:
    service = await serve()
    reply = await service.embed(input="a text")
    await service.embed(422, input="a text", seed=1)
    await service.client.get("/v1/models/none/such")
    assert service.metric("grace_requests_total", route="/embed", status="200") == 1
    assert service.metric("grace_requests_total", route="/embed", status="422") == 1
    assert service.metric("grace_requests_total", route="/v1/models/{model_id}", status="404") == 1
    assert service.metric("grace_prompt_tokens_total") == reply["usage"]["prompt_tokens"]
    assert service.metric("grace_completion_tokens_total") == reply["usage"]["completion_tokens"]
    assert service.metric("grace_finished_total", reason=reply["data"][0]["rationale"]["finish_reason"]) == 1
    assert service.metric("grace_generate_seconds_count") == 1


async def test_info_tells_the_limits_and_hides_the_keys(serve: Serve, prompter: Prompter) -> None:
    service = await serve(api_keys=KEYS)
    reply = await service.client.get("/info", headers={"authorization": "Bearer first-key"})
    info = reply.json()
    assert info["limits"]["max_input_tokens"] == prompter.max_input_tokens
    assert info["limits"]["dimensions"] == 64
    assert info["settings"]["api_keys"] == ["**********"] * 2
    assert "first-key" not in reply.text
    assert info["versions"]["python"]


async def test_the_documentation_page_needs_no_internet(serve: Serve) -> None:
    service = await serve()
    page = (await service.client.get("/docs")).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/"), link
        assert (await service.client.get(link)).status_code == 200, link
    assert (await service.client.get("/openapi.json")).json()["info"]["title"] == "GRACE"
