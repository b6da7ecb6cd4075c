"""How long the plane of a map takes, and how far neighbours on it are neighbours.

The second part needs Banking77 (`test.jsonl.gz`, with text and label) and the bundled model.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import gzip
import json
import statistics
import time
from collections import defaultdict
from typing import Any

import numpy as np
from sklearn.manifold import TSNE, trustworthiness
from sklearn.neighbors import NearestNeighbors

from bench._shared import arguments, report
from grace import Grace
from grace_server.index.projection import plane_of

ROWS, ROUNDS = 20_000, 3
INTENTS, EACH = 12, 25
NEAREST = 5
DATA = Path(__file__).parents[2] / "shared" / "data" / "banking77"


def seconds(dimensions: int) -> float:
    vectors = np.random.default_rng(0).standard_normal((ROWS, dimensions)).astype(np.float32)
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        plane_of(vectors)
        took.append(time.perf_counter() - began)
    return round(statistics.median(took), 2)


def neighbours(data: Path) -> dict[str, Any]:
    by_intent: dict[str, list[str]] = defaultdict(list)
    with gzip.open(data / "test.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            by_intent[row["label"]].append(row["text"])
    chosen = sorted(by_intent)[:: len(by_intent) // INTENTS][:INTENTS]
    texts = [(text, intent) for intent in chosen for text in by_intent[intent][:EACH]]
    with Grace.load("grace-tiny", engine="transformers") as model:
        vectors = np.asarray(model.encode([text for text, _ in texts], role="document"), dtype=np.float32)
    intents = np.array([intent for _, intent in texts])
    plane = plane_of(vectors)
    drawn: dict[str, Any] = {
        "vectors": vectors,
        "plane": plane.place(vectors),
        "tsne": TSNE(random_state=0).fit_transform(vectors),
    }

    def same(points: Any) -> float:
        near = NearestNeighbors(n_neighbors=NEAREST + 1).fit(points).kneighbors(points)[1][:, 1:]
        return round(float((intents[near] == intents[:, None]).mean()), 3)

    figures = {"documents": len(texts), "variance_on_the_plane": round(sum(plane.explained), 3)}
    for name, points in drawn.items():
        figures[f"same_intent_of_{NEAREST}_{name}"] = same(points)
        if points is not vectors:
            figures[f"trustworthiness_{name}"] = round(float(trustworthiness(vectors, points, n_neighbors=10)), 3)
    return figures


def main() -> None:
    options = arguments(__doc__ or "", data=str(DATA))
    figures: dict[str, Any] = {f"seconds_{ROWS}_x_{width}": seconds(width) for width in (256, 1024, 4096)}
    if (data := Path(options.data)).joinpath("test.jsonl.gz").exists():
        figures |= neighbours(data)
    report(figures, options.json)


if __name__ == "__main__":
    main()
