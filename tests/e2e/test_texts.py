"""One text, and two texts side by side, in the playground."""

from __future__ import annotations

import asyncio
import itertools

from tests.e2e.conftest import Browsed
from tests.e2e.steps import HOSTILE, RIVER, assert_accessible, call, shown


async def test_a_rationale_streams_in_and_hostile_words_stay_words(browsed: Browsed) -> None:
    page = browsed.page
    await browsed.open(door="slow")
    await page.fill("#embed-text", HOSTILE)
    await page.press("#embed-text", "Control+Enter")
    await page.wait_for_selector("#embed-out .busy")
    seen: list[str] = []
    while not await page.locator("#embed-out canvas").count():
        words = await page.inner_text("#embed-out .card >> nth=0")
        if not seen or words != seen[-1]:
            seen.append(words)
        await asyncio.sleep(0.05)
    assert len(seen) >= 3, seen  # it grew before the end
    assert all(later.startswith(earlier.strip()) for earlier, later in itertools.pairwise(seen))
    out = await page.inner_text("#embed-out")
    assert "<think>A text of" in out
    assert "<script>window.broken=1</script>" in out
    assert await page.locator("main img, main script").count() == 0
    await assert_accessible(browsed)
    await browsed.check()


async def test_an_answer_can_be_stopped(browsed: Browsed) -> None:
    page = browsed.page
    await browsed.open(door="slow")
    await page.fill("#embed-text", "Stop this.")
    await page.click("#embed-go")
    await page.click("#embed-stop")
    await page.wait_for_selector("text=Stopped.")
    await page.wait_for_selector("#embed-stop", state="hidden")
    await browsed.check()


async def test_a_slow_answer_says_how_long_it_takes(browsed: Browsed) -> None:
    page = browsed.page
    await page.clock.install()
    await page.route("**/explain", lambda route: None)  # never answered
    await browsed.open("#compare")
    await page.fill("#compare-first", "a")
    await page.fill("#compare-second", "b")
    await page.click("#compare-go")
    await page.wait_for_selector("#compare-out .busy")
    await page.clock.run_for(6_000)
    assert "6 s Still at work" in await page.inner_text("#compare-out .busy")
    await page.unroute("**/explain")
    await browsed.check()


async def test_a_sentence_taken_out_moves_the_score_to_what_the_api_says(browsed: Browsed) -> None:
    page = browsed.page
    first, second = "Where does the river rise?", RIVER + " " + HOSTILE
    told = await call(browsed, "POST", "/explain", {"first": first, "second": second})
    await browsed.open("#compare")
    await page.fill("#compare-first", first)
    await page.fill("#compare-second", second)
    await page.click("#compare-go")
    score = page.locator(".score output")
    await score.wait_for()
    assert await score.inner_text() == shown(told["score"])
    boxes = page.locator(".rows >> nth=1 >> input")
    for at, segment in enumerate(told["second"]["segments"]):
        await boxes.nth(at).focus()
        await page.keyboard.press("Space")
        assert await score.inner_text() == shown(segment["without"])
        await page.keyboard.press("Space")
    assert await score.inner_text() == shown(told["score"])
    await assert_accessible(browsed)
    await browsed.check()
