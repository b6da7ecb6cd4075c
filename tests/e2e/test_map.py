"""The map of a collection in the playground."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Browsed
from tests.e2e.steps import BRIDGE, HOSTILE, RIVER, assert_accessible, call, choose, collection


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
