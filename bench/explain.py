"""What explaining ten hits adds to a search, and what the sums that explanations are made of take on disk.

Searches with and without `explain` take turns, through the application in this process and no socket; the query is
embedded once and cached, so that what is compared is search, fetching, arithmetic and JSON. Documents have as many
sentences as an index keeps apart, 16, the template, and a short rationale: 20 segments. The model is a fake one: sums
have the same size whatever they mean.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import asyncio
import json
import random
import tempfile
import time
from typing import Any

import httpx

from bench._shared import WORDS, arguments, report, with_interval
from grace.checkpoint import Checkpoint, CheckpointConfig
from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_server.app import create_app
from grace_server.index.description import describe
from grace_server.settings import Settings
from tests.support.models import make_model

QUERY = "Where does the river rise? Who built the bridge? What was written in the letter?"
BATCH = 200


def document(number: int, sentences: int) -> dict[str, Any]:
    """A document with so many sentences of ten words."""
    rng = random.Random(number)
    text = " ".join(" ".join(rng.choice(WORDS) for _ in range(10)) + "." for _ in range(sentences))
    return {"id": str(number), "text": text}


async def measure(folder: Path, options: Any) -> dict[str, Any]:
    """Figures of a service on a data folder of its own."""
    model = folder / "model"
    config = CheckpointConfig(max_input_tokens=1024, max_rationale_tokens=64)
    make_model(model, config=config, hidden=options.hidden, layers=1, intermediate=64, context=2048)
    checkpoint = Checkpoint.load(model)
    prompter = Prompter(checkpoint)
    settings = Settings(data_dir=folder / "data", model=str(model), engine="transformers")
    app = create_app(settings, engine=FakeEngine(prompter), checkpoint=checkpoint)
    figures: dict[str, Any] = {}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://grace", timeout=600) as client,
    ):
        while app.state.life.phase != "ready":  # noqa: ASYNC110 - the service has no event for it
            await asyncio.sleep(0.01)
        documents = [document(i, options.sentences) for i in range(options.documents)]
        for sums in ("float32", "float16", "none"):
            (await client.put(f"/indexes/{sums}", json={"settings": {"sums": sums}})).raise_for_status()
            for start in range(0, len(documents), BATCH):
                body = {"documents": documents[start : start + BATCH], "wait": True}
                (await client.post(f"/indexes/{sums}/documents", json=body)).raise_for_status()
            collection = app.state.indexes.catalog.get(sums)
            await asyncio.to_thread(collection.compact)
            figures[f"bytes_per_document_{sums}"] = describe(collection).bytes / len(documents)
        for sums in ("float32", "float16"):
            figures |= await compare(client, sums, options.rounds)
    return figures


async def compare(client: httpx.AsyncClient, sums: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of a search, plain, explained, and explained with the mean subtracted, each round in turn.

    The index that is asked is named after what it keeps, and so are the figures.
    """
    arms: dict[str, dict[str, Any]] = {
        "plain": {},
        "explained": {"explain": True},
        "centred": {"explain": True, "centred": True},
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    work: dict[str, list[float]] = {name: [] for name in arms}
    size = 0
    shape = (0, 0)
    for turn in range(rounds + 3):
        for name, more in arms.items():
            began, worked = time.perf_counter(), time.process_time()
            reply = await client.post("/search", json={"index": sums, "query": QUERY, "k": 10, **more})
            found = json.loads(reply.content)
            took, cost = (time.perf_counter() - began) * 1000, (time.process_time() - worked) * 1000
            assert len(found["hits"]) == 10, found
            if turn >= 3:  # the first ones warm up
                times[name].append(took)
                work[name].append(cost)
            if name == "explained":
                size = len(reply.content)
                explanation = found["hits"][0]["explanation"]
                shape = len(explanation["query"]), len(explanation["document"])

    def added(measured: dict[str, list[float]], arm: str) -> list[float]:
        return [b - a for a, b in zip(measured["plain"], measured[arm], strict=True)]

    return {
        **with_interval(f"plain_ms_{sums}", times["plain"]),
        **with_interval(f"explained_ms_{sums}", times["explained"]),
        **with_interval(f"explaining_adds_ms_{sums}", added(times, "explained")),
        **with_interval(f"centring_adds_ms_{sums}", added(times, "centred")),
        # Of processor time: what the wall clock would show where nothing else runs.
        **with_interval(f"explaining_adds_cpu_ms_{sums}", added(work, "explained")),
        **with_interval(f"centring_adds_cpu_ms_{sums}", added(work, "centred")),
        f"explained_kb_{sums}": size / 1000,
        f"query_segments_{sums}": shape[0],
        f"document_segments_{sums}": shape[1],
    }


def main() -> None:
    options = arguments(__doc__ or "", documents=1000, sentences=16, hidden=384, rounds=40)
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(measure(Path(folder), options))
    report({"documents": options.documents, "hidden_size": options.hidden, **figures}, options.json)


if __name__ == "__main__":
    main()
