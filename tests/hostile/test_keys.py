"""Keys: without one nothing is told, near misses are as wrong as far ones, two are valid while they are changed."""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from grace_server.middleware import auth
from grace_server.settings import Settings
from tests.hostile.conftest import Say
from tests.server.conftest import Serve, Service

OLD, NEW = "the-old-key-0123456789", "the-new-key-abcdefghij"


async def status(service: Service, header: str | None, path: str = "/v1/models") -> int:
    headers = {} if header is None else {"authorization": header}
    return (await service.client.get(path, headers=headers)).status_code


async def test_keys_are_changed_without_a_moment_in_which_none_works(serve: Serve) -> None:
    service = await serve(api_keys=OLD)
    assert [await status(service, f"Bearer {key}") for key in (OLD, NEW)] == [200, 401]
    service = await serve(api_keys=f"{NEW},{OLD}")
    assert [await status(service, f"Bearer {key}") for key in (OLD, NEW)] == [200, 200]
    service = await serve(api_keys=NEW)
    assert [await status(service, f"Bearer {key}") for key in (OLD, NEW)] == [401, 200]


async def test_every_key_is_compared_whole_whatever_was_given(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def note(given: bytes, known: bytes) -> bool:
        compared.append((len(given), len(known)))
        return real(given, known)

    monkeypatch.setattr(auth.hmac, "compare_digest", note)
    service = await serve(api_keys=f"{OLD},{NEW}")
    near, far = OLD[:-1], "x" * 9999
    for guess in (None, "", "Bearer", f"Bearer {OLD}", f"Bearer {NEW}", f"Bearer {near}", f"Bearer {far}"):
        compared.clear()
        await status(service, guess)
        # As many comparisons, of as many bytes, however close the guess and whichever key it is close to.
        assert compared == [(32, 32), (32, 32)], guess


async def test_no_spelling_of_a_path_leads_past_the_keys(serve: Serve, say: Say) -> None:
    service = await serve(live=True, api_keys=OLD)
    above = ["/livez/../info", "/playground/../info", "/livez;/info", "/livez/", "/livez%00/info", "/livez%2f..%2finfo"]
    for path in ("/embed", "//info", "/info/", "/%69nfo", "http://a/info", *above):
        reply = await say(service, f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
        assert reply.split()[1] == b"401", (path, reply)


async def test_a_key_counts_in_its_header_only_and_only_the_first(serve: Serve, say: Say) -> None:
    service = await serve(live=True, api_keys=OLD)
    assert await status(service, None, f"/v1/models?api_key={OLD}&key={OLD}&token={OLD}") == 401
    for lines in (f"x-api-key: {OLD}", f"authorization: Bearer wrong\r\nauthorization: Bearer {OLD}"):
        reply = await say(
            service, f"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{lines}\r\n\r\n".encode()
        )
        assert reply.split()[1] == b"401", lines


async def test_a_key_is_in_no_answer_log_line_or_metric(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    service = await serve(api_keys=OLD, log_texts=True)
    told = ""
    with caplog.at_level("DEBUG"):
        for header in (f"Bearer {OLD}", f"Bearer {OLD}x", f"Basic {OLD}"):
            for path in ("/info", "/metrics", "/v1/models", "/nowhere", "/openapi.json"):
                told += (await service.client.get(path, headers={"authorization": header})).text
    told += json.dumps([record.__dict__ for record in caplog.records], default=str)
    assert OLD not in told


@pytest.mark.parametrize("given", [",", " , ", ("",), ("two words",), ("naïve",), ("line\nbreak",)])
def test_what_can_be_no_key_is_refused_and_not_taken_for_none(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="key"):
        Settings(api_keys=given, data_dir=tmp_path)
