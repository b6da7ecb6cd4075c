"""The TypeScript client in a browser, on a page of the server that it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Browsed
from tests.support import typescript

PROGRAM = """
async () => {
  const { GraceClient, ApiError, similarity } = await import("/client/index.js");
  const grace = new GraceClient(location.origin);
  const stream = grace.embedStream("Bread rises.");
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  const { data } = await grace.embed(["Bread rises.", "Iron rusts."]);
  await grace.indexes.create("kitchen");
  await grace.documents.upload("kitchen", [{ id: "1", text: "Bread rises." }, { id: "2", text: "Iron rusts." }]);
  const { hits } = await grace.search("bread", { index: "kitchen", method: "lexical" });
  const refused = await grace.embed("Bread rises.", { dimensions: 100000 }).catch((error) => error);
  return {
    vector: [...data[0].embedding],
    likeness: similarity(data[0].embedding, data[0].embedding),
    pieces,
    rationale: data[0].rationale.text,
    streamed: [...stream.result.data[0].embedding],
    hits: hits.map((hit) => hit.id),
    refused: [refused instanceof ApiError, refused.status, refused.param],
  };
}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return typescript.build(tmp_path_factory.mktemp("typescript") / "client")


async def test_it_embeds_streams_uploads_and_searches(browsed: Browsed, built: Path) -> None:
    async def module(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        await route.fulfill(path=built / "dist" / name, content_type="text/javascript")

    await browsed.page.route("**/client/*.js", module)
    await browsed.open()
    told = await browsed.page.evaluate(PROGRAM)

    async with httpx.AsyncClient(base_url=browsed.doors["quick"]) as client:
        [plain] = (await client.post("/embed", json={"input": "Bread rises."})).json()["data"]
    assert told["vector"] == pytest.approx(plain["embedding"], abs=1e-7), "what the wire shows as numbers"
    assert told["streamed"] == told["vector"]
    assert told["likeness"] == pytest.approx(1, abs=1e-6)
    assert len(told["pieces"]) > 1
    assert "".join(told["pieces"]) == told["rationale"] == plain["rationale"]["text"]
    assert told["hits"] == ["1"]
    assert told["refused"] == [True, 422, "dimensions"]
    await browsed.check(expected="422")
