"""The example in docs/explanations.md is of the bundled weights: it is asked again, and every number looked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from grace.checkpoint import Checkpoint
from grace.engines.transformers import TransformersEngine
from grace.prompt import Prompter
from grace_server.app import create_app
from grace_server.settings import Settings
from tests.docs.pages import near, numbers, page

TEXT = page("docs/explanations.md")
QUERY = "Where does the river rise?"
RIVER, BREAD = "The river rises in the hills.", "Bread needs flour, salt and time."


@pytest.fixture
async def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    for name in [name for name in os.environ if name.startswith("GRACE_")]:
        monkeypatch.delenv(name)
    checkpoint = Checkpoint.load()
    engine = TransformersEngine(checkpoint, Prompter(checkpoint), dtype="float32")
    app = create_app(Settings(data_dir=tmp_path), engine=engine, checkpoint=checkpoint)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://grace", timeout=300) as client,
    ):
        async with asyncio.timeout(120):
            while app.state.life.phase != "ready":  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.05)
        yield client


async def explained(client: httpx.AsyncClient, second: str, mode: str) -> dict[str, Any]:
    reply = await client.post("/explain", json={"first": QUERY, "second": second, "mode": mode})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def test_every_number_of_the_example(service: httpx.AsyncClient) -> None:
    direct, reason = [await explained(service, f"{RIVER} {BREAD}", mode) for mode in ("direct", "reason")]
    alone, short = [await explained(service, RIVER, mode) for mode in ("direct", "reason")]
    bread = await explained(service, BREAD, "direct")
    assert f"fingerprint {reason['fingerprint'][:8]}" in TEXT, "the weights changed: renew the example"

    first, second = direct["second"]["segments"]
    claims = [
        ("The score is #. Its table", [direct["score"]]),
        ("| Where does the river rise? | # | # |", direct["table"][0]),
        ("| score without that sentence | # | # |", [first["without"], second["without"]]),
        ("the score is #, and the document's side", [reason["score"]]),
        ("| | **sum** | | **#** |", [reason["score"]]),
        ("the sentence about the river adds # of #,", [direct["table"][0][0], direct["score"]]),
        ("with its sum taken out the cosine is #:", [first["without"]]),
        ("leaving the sums of the bread sentence out gives #.", [reason["second"]["segments"][1]["without"]]),
        ("Sending the document without that sentence gives #,", [short["score"]]),
        ("# by subtraction, # by asking the model again", [second["without"], alone["score"]]),
        ("scores # with a question about a river", [bread["score"]]),
    ]
    for segment in reason["second"]["segments"]:
        text = segment["text"].strip()
        shown = f"`{text}`" if text.startswith("<think>") else text
        row = f"| {segment['source']} | {shown} | {segment['tokens']} | # | # |"
        claims.append((row, [segment["contribution"], segment["without"]]))
    shares = [{s["source"]: 100 * s["share"] for s in reason[side]["sources"]} for side in ("second", "first")]
    order = ("input", "rationale", "template")
    claims.append(
        (
            "# % of the score comes from the document's text, # % from its rationale, # % from the turn markers "
            "between them (`template`). On the query's side it is # %, # % and # %.",
            [side[source] for side in shares for source in order],
        )
    )
    for sentence, figures in claims:
        written = numbers(TEXT, sentence)
        assert all(near(*pair) for pair in zip(written, figures, strict=True)), (sentence, written, figures)
