"""What a person does in the playground again and again, and what the tests ask of every view."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Browsed

HOSTILE = "<img src=x onerror=window.broken=1> <script>window.broken=1</script> It stays text."
RIVER = "The river rises in the hills. It runs through three towns."
BRIDGE = "A guild of masons built the bridge. That was in 1432!"

axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe-playwright-python is not installed")


async def call(browsed: Browsed, method: str, path: str, body: Any = None, door: str = "quick") -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=browsed.doors[door], timeout=30) as client:
        reply = await client.request(method, path, json=body)
        assert reply.status_code < 300, reply.text
        return dict(reply.json())


async def collection(browsed: Browsed, name: str, texts: list[str], **metadata: list[Any]) -> None:
    await call(browsed, "PUT", f"/indexes/{name}", {"settings": {"document_mode": "reason"}})
    documents = [
        {"id": f"{name}-{i}", "text": text, "metadata": {key: values[i] for key, values in metadata.items()}}
        for i, text in enumerate(texts)
    ]
    await call(browsed, "POST", f"/indexes/{name}/documents", {"documents": documents, "wait": True})


async def choose(browsed: Browsed, view: str, name: str) -> None:
    await browsed.open(f"#{view}")
    await browsed.page.select_option(f"#{view}-indexes select", name)


async def assert_accessible(browsed: Browsed) -> None:
    # WCAG 2.0 to 2.2, A and AA, and what axe calls best practice.
    found = await axe.Axe().run(browsed.page)
    assert found.violations_count == 0, found.generate_report()


def shown(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}".replace("-", "−")
