"""The playground in a real Chromium, where Playwright and a browser are installed; elsewhere skipped, visibly."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Serve

playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

HOSTILE = "<img src=x onerror=window.broken=1> <script>window.broken=1</script> It stays text."


class Browsed:
    """A page at phone width, and everything that went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    async def check(self) -> None:
        assert self.complaints == []
        assert await self.page.evaluate("window.broken") is None
        assert await self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.fixture
async def browsed() -> AsyncIterator[Browsed]:
    async with playwright.async_playwright() as started:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = await started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield Browsed(await browser.new_page(viewport={"width": 375, "height": 800}))
        await browser.close()


async def test_a_rationale_streams_in_and_hostile_words_stay_words(serve: Serve, browsed: Browsed) -> None:
    service, page = await serve(live=True, seconds=0.4), browsed.page
    await page.goto(service.url)
    await page.fill("#embed-text", HOSTILE)
    await page.press("#embed-text", "Control+Enter")
    await page.wait_for_selector("#embed-out .busy")
    await page.wait_for_selector("#embed-out canvas")
    assert "<think>A text of" in await page.inner_text("#embed-out")
    assert "<script>window.broken=1</script>" in await page.inner_text("#embed-out")
    await browsed.check()


async def test_a_sentence_taken_out_moves_the_score_to_what_the_api_says(serve: Serve, browsed: Browsed) -> None:
    service, page = await serve(live=True), browsed.page
    first, second = "Where does the river rise?", "The river rises in the hills. " + HOSTILE
    told = (await service.client.post("/explain", json={"first": first, "second": second})).json()
    await page.goto(f"{service.url}/#compare")
    await page.fill("#compare-first", first)
    await page.fill("#compare-second", second)
    await page.click("#compare-go")
    score = page.locator(".score output")
    await score.wait_for()

    def shown(value: float) -> str:
        return f"{value:.4f}".replace("-", "−")

    assert await score.inner_text() == shown(told["score"])
    boxes = page.locator(".rows >> nth=1 >> input")
    for at, segment in enumerate(told["second"]["segments"]):
        await boxes.nth(at).focus()
        await page.keyboard.press("Space")
        assert await score.inner_text() == shown(segment["without"])
        await page.keyboard.press("Space")
    assert await score.inner_text() == shown(told["score"])
    await browsed.check()


async def test_a_csv_becomes_an_index_that_is_searched(serve: Serve, browsed: Browsed, tmp_path: Path) -> None:
    service, page = await serve(live=True), browsed.page
    table = tmp_path / "papers.csv"
    table.write_text(f'id,text,year\r\na,"{HOSTILE}",1901\r\nb,"A ""guild"",\nof masons. It stands.",1902\r\n')
    await page.goto(f"{service.url}/#search")
    await page.fill("#upload-form [name=index]", "papers")
    await page.set_input_files("#upload-form [name=file]", table)
    await page.click("#upload-go")
    await page.wait_for_selector("text=2 documents are in")
    stored = (await service.client.get("/indexes/papers/documents/b")).json()
    assert (stored["text"], stored["metadata"]) == ('A "guild",\nof masons. It stands.', {"year": "1902"})
    await page.fill("#search-query", "Who built it?")
    await page.press("#search-query", "Enter")
    await page.wait_for_selector(".hit")
    assert await page.locator(".hit").count() == 2
    assert await page.locator("img, main script").count() == 0
    await page.locator(".hit .part").first.focus()
    await page.keyboard.press("Enter")
    assert "with all" in " ".join(await page.locator(".hit header").all_inner_texts())
    await browsed.check()


async def test_a_key_is_asked_for_and_errors_show_their_request(serve: Serve, browsed: Browsed) -> None:
    service, page = await serve(live=True, api_keys="right"), browsed.page
    await page.goto(service.url)
    for key in ("wrong", "right"):
        await page.wait_for_selector("#key-dialog[open]")
        await page.fill("#key-field", key)
        await page.keyboard.press("Enter")
    await page.wait_for_selector("#about:has-text('dimensions')")
    reply: list[dict[str, str]] = []
    page.on("response", lambda response: reply.append(response.headers))
    await page.evaluate("document.querySelector('#embed-form [name=budget]').removeAttribute('max')")
    await page.fill("#embed-form [name=budget]", "9999999")
    await page.fill("#embed-text", "x")
    await page.click("#embed-go")
    await page.wait_for_selector(".problem[role=alert]")
    shown = await page.inner_text(".problem[role=alert]")
    assert "max_rationale_tokens must lie in" in shown
    assert reply[-1]["x-request-id"] in shown
