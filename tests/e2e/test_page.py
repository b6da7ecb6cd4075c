"""What holds for the whole page of the playground: keys, errors, keyboard, accessibility, weight.

A real server process, a real browser, phone width unless said otherwise.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import Browsed
from tests.e2e.served import KEY
from tests.e2e.steps import BRIDGE, HOSTILE, RIVER, assert_accessible, axe, choose, collection

MOST_BYTES = 300_000


async def test_a_key_is_asked_for_and_errors_show_their_request(browsed: Browsed) -> None:
    page = browsed.page
    await browsed.open(door="keyed")
    for key in ("a-wrong-one", f"{KEY}…", "\u200bzero-width", KEY):  # no header holds the two in the middle
        await page.wait_for_selector("#key-dialog[open]")
        await assert_accessible(browsed)
        await page.fill("#key-field", key)
        await page.keyboard.press("Enter")
    await page.wait_for_selector("#about:has-text('dimensions')")
    assert await page.evaluate("sessionStorage.getItem('grace-api-key')") == KEY
    replies: list[dict[str, str]] = []
    page.on("response", lambda response: replies.append(response.headers))
    await page.evaluate("document.querySelector('#embed-form [name=budget]').removeAttribute('max')")
    await page.fill("#embed-form [name=budget]", "9999999")
    await page.fill("#embed-text", "x")
    await page.click("#embed-go")
    await page.wait_for_selector(".problem[role=alert]")
    told = await page.inner_text(".problem[role=alert]")
    assert "max_rationale_tokens must lie in" in told
    assert replies[-1]["x-request-id"] in told
    await browsed.check(expected="Failed to load resource")  # Chromium's own note of each 401 and 422


async def test_where_the_service_is_gone_the_page_says_so(browsed: Browsed) -> None:
    page = browsed.page
    await browsed.open("#compare")
    await page.route("**/explain", lambda route: route.abort())
    await page.fill("#compare-first", "a")
    await page.fill("#compare-second", "b")
    await page.click("#compare-go")
    await page.wait_for_selector(".problem:has-text('cannot be reached')")
    await browsed.check(expected="Failed to load resource")


async def test_where_there_is_no_collection_each_view_says_what_to_do(browsed: Browsed) -> None:
    page = browsed.page
    await browsed.open("#map", door="slow")
    await page.click("#map-indexes a")
    await page.wait_for_selector("#view-search:not([hidden])")
    assert "Upload" in await page.inner_text("#search-indexes")
    assert await page.locator("#upload[open]").count() == 1
    assert not await page.is_visible("#search-form")
    await assert_accessible(browsed)
    await browsed.check()


async def test_everything_can_be_reached_with_the_keyboard_alone(browsed: Browsed) -> None:
    page = browsed.page
    await collection(browsed, "keys", [RIVER, BRIDGE])
    await browsed.open()

    async def tab_to(selector: str) -> None:
        for _ in range(60):
            await page.keyboard.press("Tab")
            if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
                ring = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                assert ring != "none", selector  # one sees where one is
                return
        raise AssertionError(f"{selector} is not reached by Tab")

    await tab_to("nav a[href='#search']")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#search-indexes select")
    await tab_to("#search-indexes select")
    await page.keyboard.type("keys")
    await tab_to("#search-query")
    await page.keyboard.type("Who built it?")
    await page.wait_for_selector(".hit")
    await tab_to(".query [role=checkbox]")
    await page.keyboard.press("Space")
    await page.wait_for_selector("text=1 sentence taken out")
    await tab_to(".hit [role=checkbox]")
    await page.keyboard.press("Enter")
    await page.wait_for_selector("text=2 sentences taken out")
    await tab_to(".hit summary")
    await page.keyboard.press("Enter")
    await tab_to(".hit button.pair")
    await page.keyboard.press("Enter")
    await page.wait_for_selector(".sides")
    await browsed.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1100])
async def test_every_view_is_accessible_light_and_dark_narrow_and_wide(
    browser: Any, doors: dict[str, str], scheme: str, width: int
) -> None:
    context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    browsed = Browsed(await context.new_page(), doors)
    page = browsed.page
    await collection(browsed, "looked-at", [RIVER, BRIDGE, HOSTILE], kind=["a", "b", "c"])
    await browsed.open()
    await page.fill("#embed-text", RIVER)
    await page.click("#embed-go")
    await page.wait_for_selector("#embed-out canvas")
    await assert_accessible(browsed)
    await choose(browsed, "search", "looked-at")
    await page.fill("#search-query", "Who built it?")
    await page.wait_for_selector(".hit")
    await page.locator(".query [role=checkbox]").first.click()
    await page.wait_for_timeout(400)  # contrast is measured when nothing fades any more
    await assert_accessible(browsed)
    await browsed.check()
    await choose(browsed, "map", "looked-at")
    await page.wait_for_selector("#map-legend button")
    await assert_accessible(browsed)
    await browsed.check()
    await context.close()


async def test_what_is_inaccessible_would_be_found(browsed: Browsed) -> None:
    await browsed.open()
    await browsed.page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    assert (await axe.Axe().run(browsed.page)).violations_count


async def test_the_page_is_light_and_quickly_there(browser: Any, doors: dict[str, str]) -> None:
    first_views, sizes = [], []
    for _ in range(3):
        context = await browser.new_context()
        page = await context.new_page()
        await page.goto(doors["quick"])
        await page.wait_for_selector("#about:has-text('dimensions')")
        entries = "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
        files = await page.evaluate(
            f"{entries}.filter(e => !e.name.endsWith('/info')).map(e => [e.name, e.decodedBodySize, e.responseEnd])"
        )
        assert all(name.startswith(doors["quick"]) for name, _, _ in files)
        sizes.append(sum(size for _, size, _ in files))
        first_views.append(await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        await context.close()
    assert max(sizes) <= MOST_BYTES
    assert min(first_views) <= 1_000, first_views
