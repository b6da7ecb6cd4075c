"""Search through our index against raw FAISS with the same index, interleaved in one process; medians and ratios.

    python bench/search.py --rows 20000 --dimensions 256 --json search.json

Vectors are clustered, as embeddings are; uniform noise has no neighbours worth finding.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from grace_server.index.approximate import use_threads
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.edges import Edges
from grace_server.index.filters import compile_filter
from grace_server.index.settings import CollectionSettings

Floats = npt.NDArray[np.float32]
BATCH = 2_000
K = 10


def clustered(rows: int, dimensions: int, seed: int) -> Floats:
    """Unit vectors around centres, a hundred rows to a centre."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((max(1, rows // 100), dimensions), dtype=np.float32)
    vectors = centres[rng.integers(0, len(centres), rows)]
    vectors += 0.6 * rng.standard_normal((rows, dimensions), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def quantile(values: list[float], share: float) -> float:
    return float(np.quantile(values, share))


def ingest(collection: Collection, vectors: Floats) -> float:
    """Documents per second, durable, in batches."""
    spent = 0.0
    for start in range(0, len(vectors), BATCH):
        batch = [
            {"id": f"d{start + i}", "text": "", "metadata": {"n": (start + i) % 100}, "vector": vector}
            for i, vector in enumerate(vectors[start : start + BATCH])
        ]
        spent += timed(lambda batch=batch: collection.upsert(batch))
    return len(vectors) / spent * 1000


def raw_index(collection: Collection, vectors: Floats) -> tuple[Any, Any]:
    """FAISS alone: the very same graph if one is built, a flat index otherwise; and its search parameters."""
    if collection.index.base is None:
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        return flat, None
    inner = faiss.downcast_index(collection.index.base.index.index)
    return inner, faiss.SearchParametersHNSW(efSearch=collection.settings.search_width)


def compare(collection: Collection, vectors: Floats, queries: Floats) -> dict[str, float]:
    """One query at a time: raw FAISS, our index, and our index with the documents fetched."""
    raw, parameters = raw_index(collection, vectors)
    times: dict[str, list[float]] = {"raw": [], "index": [], "documents": []}
    for turn, query in enumerate(queries):
        one = query[None]
        works: list[tuple[str, Callable[[], object]]] = [
            ("raw", lambda one=one: raw.search(one, K, params=parameters)),
            ("index", lambda one=one: collection.dense(one, K)),
            ("documents", lambda one=one: collection.documents(collection.dense(one, K)[0].labels)),
        ]
        for name, work in works[turn % 3 :] + works[: turn % 3]:  # nobody always comes to a warm cache
            times[name].append(timed(work))
    hits = 0
    for query in queries:  # apart from the timing: comparing with every row empties the caches
        [found] = collection.dense(query[None], K)
        exact = set(np.argpartition(-(vectors @ query), K)[:K].tolist())
        hits += len(exact & {int(d.id[1:]) for d in collection.documents(found.labels).values()})
    medians = {f"{name}_p50_ms": statistics.median(values) for name, values in times.items()}
    return medians | {
        "index_over_raw": medians["index_p50_ms"] / medians["raw_p50_ms"],
        "index_p99_ms": quantile(times["index"], 0.99),
        "recall_at_10": hits / (K * len(queries)),
    }


def filtered(collection: Collection, vectors: Floats, queries: Floats) -> dict[str, float]:
    """A filter that lets one in a hundred through; the first use of it reads the metadata, later ones remember."""
    clause = compile_filter({"field": "n", "operator": "==", "value": 7})
    first = timed(lambda: collection.dense(queries[:1], K, clause))
    allowed = np.arange(7, len(vectors), 100)
    times, hits = [], 0
    for query in queries:
        times.append(timed(lambda query=query: collection.dense(query[None], K, clause)))
        [found] = collection.dense(query[None], K, clause)
        exact = set(allowed[np.argsort(-(vectors[allowed] @ query))[:K]].tolist())
        hits += len(exact & {int(d.id[1:]) for d in collection.documents(found.labels).values()})
    return {
        "filter_first_ms": first,
        "filter_p50_ms": statistics.median(times),
        "filter_recall_at_10": hits / (K * len(queries)),
    }


def rebuilding(collection: Collection, queries: Floats) -> dict[str, float]:
    """Searches while the index is built anew in another thread, against searches while nothing happens."""
    quiet = [timed(lambda query=query: collection.dense(query[None], K)) for query in queries]
    done = threading.Event()

    def rebuild() -> None:
        use_threads(1)
        collection.maintain("rebuild")
        done.set()

    thread = threading.Thread(target=rebuild)
    thread.start()
    busy: list[float] = []
    while not done.is_set():
        query = queries[len(busy) % len(queries)]
        busy.append(timed(lambda query=query: collection.dense(query[None], K)))
        time.sleep(0.002)
    thread.join()
    return {
        "quiet_p99_ms": quantile(quiet, 0.99),
        "rebuild_p99_ms": quantile(busy, 0.99),
        "rebuild_over_quiet_p99": quantile(busy, 0.99) / quantile(quiet, 0.99),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--kind", choices=("flat", "hnsw"), action="append")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    use_threads(1)
    vectors = clustered(arguments.rows, arguments.dimensions, 1)
    queries = clustered(arguments.queries, arguments.dimensions, 2)
    report: dict[str, Any] = {
        "rows": arguments.rows,
        "dimensions": arguments.dimensions,
        "faiss": faiss.__version__,
        "machine": platform.machine(),
    }
    for kind in arguments.kind or ("flat", "hnsw"):
        with tempfile.TemporaryDirectory() as folder:
            catalog = Catalog(Path(folder), Edges())
            settings = CollectionSettings(kind=kind, flat_limit=1_000)
            collection = catalog.create("a", settings, dimensions=arguments.dimensions, fingerprint=None)
            found: dict[str, float] = {"ingest_per_s": ingest(collection, vectors)}
            found["build_s"] = timed(collection.maintain) / 1000
            found |= compare(collection, vectors, queries) | filtered(collection, vectors, queries)
            if kind == "hnsw":
                found |= rebuilding(collection, queries)
            catalog.close()
            began = time.perf_counter()
            catalog = Catalog(Path(folder), Edges())
            found["start_s"] = time.perf_counter() - began
            catalog.close()
        report[kind] = {name: round(value, 4) for name, value in found.items()}
        print(kind, json.dumps(report[kind], indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
