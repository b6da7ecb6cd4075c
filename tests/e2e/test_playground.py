"""The playground as a person meets it: a real server process, a real browser, phone width unless said otherwise."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Browsed
from tests.e2e.served import KEY

HOSTILE = "<img src=x onerror=window.broken=1> <script>window.broken=1</script> It stays text."
RIVER = "The river rises in the hills. It runs through three towns."
BRIDGE = "A guild of masons built the bridge. That was in 1432!"
MOST_BYTES = 300_000

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


async def test_what_is_inaccessible_would_be_found(browsed: Browsed) -> None:
    await browsed.open()
    await browsed.page.evaluate("document.querySelector('main').append(document.createElement('input'))")
    assert (await axe.Axe().run(browsed.page)).violations_count


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


async def test_a_csv_becomes_a_collection_with_columns_chosen_and_bad_rows_named(
    browsed: Browsed, tmp_path: Path
) -> None:
    page = browsed.page
    table = tmp_path / "old papers.csv"
    quoted = 'b,The guild,"A ""guild"",\nof masons. It stands.",1902,007\r\n'
    first, rest = f"a,{HOSTILE},It stays.,1901,001\r\n", "c,only two\r\na,again,x,1,2\r\nd,,,4,5\r\n"
    table.write_text(f"key,title,words,year,code\r\n{first}{quoted}{rest}", newline="")
    await browsed.open("#search")
    await page.evaluate("document.querySelector('#upload').open = true")
    await page.set_input_files("#upload-form [name=file]", table)
    await page.wait_for_selector("#upload-columns table")
    assert await page.input_value("#upload-form [name=index]") == "old-papers"
    assert "Line 5: it has 2 fields, the first line names 5." in await page.inner_text("#upload-columns")
    await page.check("#upload-columns [name=text][value=title]")
    await page.check("#upload-columns [name=text][value=words]")
    await page.select_option("#upload-columns [name=id]", "key")
    await assert_accessible(browsed)
    await page.click("#upload-go")
    await page.wait_for_selector("text=holds 2 documents")
    named = await page.inner_text("#upload-out")
    assert "Line 5: it has 2 fields" in named
    assert "Line 6: its id “a” is that of line 2" in named
    assert "Line 7: it has no text" in named
    stored = await call(browsed, "GET", "/indexes/old-papers/documents/b")
    assert stored["text"] == 'The guild\nA "guild",\nof masons. It stands.'
    assert stored["metadata"] == {"year": 1902, "code": "007"}
    await page.fill("#search-query", "Who built it?")
    await page.press("#search-query", "Enter")
    await page.wait_for_selector(".hit")
    assert await page.locator("main img, main script").count() == 0
    await browsed.check()


async def test_what_the_service_refuses_is_named_by_its_line_and_the_rest_goes_in(
    browsed: Browsed, tmp_path: Path
) -> None:
    page = browsed.page
    file = tmp_path / "odd.jsonl"
    lines = [{"id": "fine", "text": "One."}, {"id": "nul", "text": "x", "k": "\0"}, {"id": "last", "text": "Two."}]
    file.write_text("\n".join(json.dumps(line) for line in lines) + "\nnot json\n")
    await browsed.open("#search")
    await page.evaluate("document.querySelector('#upload').open = true")
    await page.set_input_files("#upload-form [name=file]", file)
    await page.wait_for_selector("#upload-columns table")
    await page.click("#upload-go")
    await page.wait_for_selector("text=holds 2 documents")
    named = await page.inner_text("#upload-out")
    assert "Line 2: documents[1].metadata: texts may not hold U+0000" in named
    assert "Line 4: it is not JSON" in named
    assert (await call(browsed, "GET", "/indexes/odd/documents/last"))["text"] == "Two."
    await browsed.check(expected="Failed to load resource")  # Chromium's own note of the 422


async def test_the_map_shows_documents_by_keyboard_and_where_a_query_lies(browsed: Browsed) -> None:
    page = browsed.page
    texts = [f"{(RIVER, BRIDGE)[i % 2]} Number {i}. {HOSTILE if i == 3 else ''}" for i in range(30)]
    await collection(browsed, "drawn", texts, kind=[("river", "bridge")[i % 2] for i in range(30)], n=list(range(30)))
    await choose(browsed, "map", "drawn")
    await page.wait_for_selector("#map-legend button:has-text('bridge')")
    drawn = (
        "([...document.querySelector('#map-canvas').getContext('2d').getImageData(0, 0, 300, 300).data].some(v => v))"
    )
    assert await page.evaluate(drawn)

    await page.focus("#map-over")
    seen = set()
    for key in ["ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown", "ArrowDown", "+", "-", "0"]:
        await page.keyboard.press(key)
        await page.wait_for_timeout(150)
        seen.add(await page.inner_text("#map-document"))
    assert len(seen) >= 3
    assert all("drawn-" in card for card in seen)

    await page.fill("#map-query", "Who built the bridge?")
    await page.press("#map-query", "Enter")
    await page.wait_for_selector("#map-out li")
    hits = await call(browsed, "POST", "/search", {"index": "drawn", "query": "Who built the bridge?"})
    listed = await page.locator("#map-out li .clip").all_inner_texts()
    assert listed == [" ".join(hit["text"].split()) for hit in hits["hits"]]
    await page.locator("#map-out li button").first.click()
    await page.wait_for_selector(f"#map-document code:has-text('{hits['hits'][0]['id']}')")
    await page.select_option("#map-colour", "n")
    await page.wait_for_selector("#map-legend .step")
    await assert_accessible(browsed)
    await browsed.check()


@pytest.mark.parametrize("browsed", [{"viewport": {"width": 1100, "height": 800}}], indirect=True)
async def test_twenty_thousand_points_are_painted_at_a_frame_each(browsed: Browsed) -> None:
    page = browsed.page
    await browsed.open()
    took = await page.evaluate(
        """async () => {
          const { Plot } = await import('./playground/plot.js');
          for (const id of ['view-map', 'map-all-of-it', 'map-frame']) document.getElementById(id).hidden = false;
          const plot = new Plot(document.getElementById('map-canvas'), document.getElementById('map-over'), () => {});
          const some = () => Array.from({ length: 20000 }, () => Math.random());
          plot.show(some(), some(), true);
          plot.colour(Array.from({ length: 20000 }, (_, i) => i % 12), { list: Array(12).fill('#0072b2') });
          await new Promise(requestAnimationFrame);
          const times = [];
          for (let i = 0; i < 9; i++) {
            const began = performance.now();
            plot.paint();
            for (let j = 0; j < 20; j++) plot.find(j * 20, j * 15);
            times.push(performance.now() - began);
          }
          return Math.min(...times); // what it costs, not how busy the machine is
        }"""
    )
    assert took < 50, f"{took:.1f} ms for a frame"
    await browsed.check()


async def test_a_key_is_asked_for_and_errors_show_their_request(browsed: Browsed) -> None:
    page = browsed.page
    await browsed.open(door="keyed")
    for key in ("a wrong one", KEY):
        await page.wait_for_selector("#key-dialog[open]")
        await assert_accessible(browsed)
        await page.fill("#key-field", key)
        await page.keyboard.press("Enter")
    await page.wait_for_selector("#about:has-text('dimensions')")
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
