"""The playground is served to everyone, loads nothing from elsewhere, and never turns words into markup."""

from __future__ import annotations

import re

import pytest

from grace_server.routes.playground import ASSETS, FOLDER, PATHS
from tests.server.conftest import Serve
from tests.server.test_error_shape import assert_envelope


def policy(value: str) -> dict[str, list[str]]:
    return {name: sources for name, *sources in (directive.split() for directive in value.split(";"))}


@pytest.mark.parametrize("path", PATHS)
async def test_each_file_is_served_under_the_strict_policy(serve: Serve, path: str) -> None:
    service = await serve()
    reply = await service.client.get(path)
    assert reply.status_code == 200
    assert reply.content
    rules = policy(reply.headers["content-security-policy"])
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["frame-ancestors"] == ["'none'"]
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == ["'self'"]
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    kind = {"/": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert reply.headers["content-type"].startswith(kind[path.rpartition(".")[2]])


async def test_the_page_is_open_and_the_api_is_not(serve: Serve) -> None:
    service = await serve(api_keys="secret")
    for path in PATHS:
        reply = await service.client.get(path)
        assert reply.status_code == 200, path
        assert b"secret" not in reply.content
    for path in ("/indexes", "/info", "/playground/other.js"):
        assert (await service.client.get(path)).status_code == 401, path
    assert (await service.client.post("/explain", json={"first": "a", "second": "b"})).status_code == 401


@pytest.mark.parametrize("name", ["other.js", "..%2Fapp.py", "%2e%2e/app.py", "index.html", "style.css%00"])
async def test_nothing_but_its_files_is_served(serve: Serve, name: str) -> None:
    service = await serve()
    reply = await service.client.get(f"/playground/{name}")
    assert reply.status_code == 404
    assert_envelope(reply)


def test_every_file_of_the_folder_is_served_and_they_are_light() -> None:
    files = sorted(path.name for path in FOLDER.iterdir())
    assert files == sorted([*ASSETS, "index.html"])
    assert sum((FOLDER / name).stat().st_size for name in files) <= 300_000


def test_nothing_is_loaded_from_elsewhere() -> None:
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.", text), path.name
        assert "@import" not in text, path.name
        assert "url(" not in text, path.name
    for script in FOLDER.glob("*.js"):
        for source in re.findall(r'from "([^"]+)"', script.read_text(encoding="utf-8")):
            assert source.startswith("./"), script.name
            assert source.removeprefix("./") in ASSETS, script.name


def test_words_never_become_markup_or_code() -> None:
    ways = (
        r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|createContextualFragment|\beval\b|new Function"
    )
    more = r"|setTimeout\(\s*['\"`]|srcdoc|javascript:|localStorage|document\.cookie"
    for script in FOLDER.glob("*.js"):
        found = re.search(ways + more, script.read_text(encoding="utf-8"))
        assert not found, (script.name, found)
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son[a-z]+=|<style|\sstyle=|<script(?![^>]*\ssrc=)", page)
