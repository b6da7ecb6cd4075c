"""Searching in the playground."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.e2e.conftest import Browsed
from tests.e2e.steps import BRIDGE, HOSTILE, RIVER, assert_accessible, call, choose, collection, shown


async def test_searching_while_typing_asks_for_the_last_words_and_drops_the_older(browsed: Browsed) -> None:
    page = browsed.page
    await collection(browsed, "typed", [RIVER, BRIDGE])
    asked: list[str] = []

    async def note(route: Any) -> None:
        asked.append(json.loads(route.request.post_data)["query"])
        if asked[-1] != "Who built it?":
            return  # the older one is never answered: only dropping it lets the newer one be seen
        await route.continue_()

    dropped: list[str] = []
    page.on("requestfailed", lambda request: dropped.append(request.failure))
    await page.route("**/search", note)
    await choose(browsed, "search", "typed")
    await page.type("#search-query", "Who built")
    while not asked:  # noqa: ASYNC110 - the browser tells in its own time
        await asyncio.sleep(0.02)
    await page.type("#search-query", " it?")
    await page.wait_for_selector(".hit")
    assert len(asked) <= 3  # not one for each letter
    assert asked[-1] == "Who built it?"
    assert set(dropped) == {"net::ERR_ABORTED"}
    assert await page.locator(".hit").count() == 2
    await browsed.check()


async def test_taking_a_sentence_out_moves_the_ranking_without_asking_anyone(browsed: Browsed) -> None:
    page = browsed.page
    texts = [f"{RIVER} Text {i}. Who built the bridge? {'Masons did. ' * (i % 3)}" for i in range(5)] + [HOSTILE]
    await collection(browsed, "moved", texts)
    query = "Who built the bridge? It runs through three towns."
    told = await call(browsed, "POST", "/search", {"index": "moved", "query": query, "explain": True})
    await choose(browsed, "search", "moved")
    await page.uncheck("#search-form [name=live]")
    await page.fill("#search-query", query)
    await page.press("#search-query", "Enter")
    await page.wait_for_selector(".hit")
    names = page.locator(".hit code")
    assert await names.all_inner_texts() == [hit["id"] for hit in told["hits"]]

    before = len(browsed.sent)
    moved = False
    for at, piece in enumerate(told["hits"][0]["explanation"]["query"]):
        box = page.locator(".query [role=checkbox]").nth(at)
        await box.focus()
        await page.keyboard.press("Space")
        assert await box.get_attribute("aria-checked") == "false"
        assert await box.evaluate("node => node === document.activeElement")
        left = {hit["id"]: hit["explanation"]["query"][at]["without"] for hit in told["hits"]}
        expected = sorted(left, key=lambda name: -left[name])
        assert await names.all_inner_texts() == expected, piece
        scores = await page.locator(".hit .figure.big").all_inner_texts()
        assert scores == [shown(left[name]) for name in expected]
        moved = moved or expected != [hit["id"] for hit in told["hits"]]
        await page.keyboard.press("Space")
    assert moved, "the texts of this test must be such that some sentence matters"

    last = told["hits"][-1]
    box = page.locator(f"[data-hit='{last['id']}'] [role=checkbox]").first
    await box.click()
    [first_input] = [p for p in last["explanation"]["document"] if p["source"] == "input"][:1]
    card = page.locator(f"[data-hit='{last['id']}']")
    assert await card.locator(".figure.big").inner_text() == shown(first_input["without"])
    await page.click("text=Put all back")
    assert await names.all_inner_texts() == [hit["id"] for hit in told["hits"]]
    assert len(browsed.sent) == before
    await browsed.check()


async def test_a_pair_shows_its_two_sides(browsed: Browsed) -> None:
    page = browsed.page
    await collection(browsed, "pairs", [RIVER, BRIDGE])
    told = await call(browsed, "POST", "/search", {"index": "pairs", "query": "Who built it?", "explain": True})
    await choose(browsed, "search", "pairs")
    await page.fill("#search-query", "Who built it?")
    await page.press("#search-query", "Enter")
    await page.locator(".hit summary").first.click()
    await page.locator(".hit button.pair").first.click()
    hit = told["hits"][0]["explanation"]
    sides = await page.locator(".sides .words").all_inner_texts()
    largest = hit["pairs"][0]
    expected = [hit["query"][largest["query"]]["text"], hit["document"][largest["document"]]["text"]]
    assert sides == [text.strip() or "turn markers" for text in expected]
    assert await page.locator(".part.picked").count() == 2
    await assert_accessible(browsed)
    await browsed.check()
