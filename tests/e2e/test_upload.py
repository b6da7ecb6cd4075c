"""Files that become collections in the playground."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.conftest import Browsed
from tests.e2e.steps import HOSTILE, assert_accessible, call


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


async def test_rows_without_an_id_are_those_of_their_file(browsed: Browsed, tmp_path: Path) -> None:
    page = browsed.page
    for name, text in (("first.jsonl", "One."), ("second.jsonl", "Two.")):
        file = tmp_path / name
        file.write_text(json.dumps({"text": text}) + "\n")
        await browsed.open("#search")
        await page.evaluate("document.querySelector('#upload').open = true")
        await page.fill("#upload-form [name=index]", "both")
        await page.set_input_files("#upload-form [name=file]", file)
        await page.wait_for_selector("#upload-columns option:has-text('file name and line')", state="attached")
        await page.click("#upload-go")
        await page.wait_for_selector("#upload-out :has-text('Done')")
    for name, text in (("first.jsonl:1", "One."), ("second.jsonl:1", "Two.")):
        assert (await call(browsed, "GET", f"/indexes/both/documents/{name}"))["text"] == text
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
