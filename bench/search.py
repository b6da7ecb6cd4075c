"""Search through a collection against raw FAISS with the same index, taking turns in one process; medians and ratios.

    python bench/search.py --rows 50000 --json bench/results/search.json
    python bench/search.py --rows 1000000 --kind auto --json bench/results/search_1m.json

The vectors are clustered, as embeddings are: topics in a space of 32 dimensions, a hundred rows to a topic, turned into
all dimensions, with noise on top. Uniform noise has no neighbours worth finding, and clusters in all of 384 dimensions
lie so far apart that any index finds them.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parent.parent)  # this folder would shadow the standard library's http

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from bench._shared import about, least_of, with_interval
from grace_server.index.approximate import give_way, use_threads
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.edges import Edges
from grace_server.index.filters import compile_filter
from grace_server.index.settings import CollectionSettings

Floats = npt.NDArray[np.float32]
BATCH = 2_000
K = 10
p99 = least_of(0.99)
LATENT = 32
KINDS = {  # `auto` as it comes; the others are built at any size
    "auto": CollectionSettings(),
    "flat": CollectionSettings(kind="flat"),
    "ivf": CollectionSettings(kind="ivf", flat_limit=1_000),
    "hnsw": CollectionSettings(kind="hnsw", flat_limit=1_000),
    "sq8": CollectionSettings(kind="ivf", flat_limit=1_000, quantization="sq8"),
}
FILTER = {"field": "n", "operator": "==", "value": 7}  # one row in a hundred


def clustered(rows: int, dimensions: int, seed: int, topics: int, file: Path | None = None) -> Floats:
    """Unit vectors around topics; the topics are the same for every seed. In a file, they do not count as memory."""
    shared, rng = np.random.default_rng(0), np.random.default_rng(seed)
    centres = shared.standard_normal((topics, LATENT), dtype=np.float32)
    turn = shared.standard_normal((LATENT, dimensions), dtype=np.float32)
    shape = (rows, dimensions)
    out = np.empty(shape, np.float32) if file is None else np.memmap(file, np.float32, "w+", shape=shape)
    for start in range(0, rows, 10_000):
        some = out[start : start + 10_000]
        latent = centres[rng.integers(0, topics, len(some))]
        latent += 0.5 * rng.standard_normal(latent.shape, dtype=np.float32)
        some[:] = latent @ turn + rng.standard_normal(some.shape, dtype=np.float32)
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return out


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def disk_reads() -> int:
    """Bytes that this process has waited for the disk for, so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


def ingest(collection: Collection, vectors: Floats) -> dict[str, float]:
    """Documents per second, durable, in batches, from the call to the commit; and per second of the processor's time
    that this process got, which says what it would be on a machine with nothing else to do.
    """
    spent = cpu = 0.0
    for start in range(0, len(vectors), BATCH):
        batch = [
            {"id": f"d{start + i}", "text": "", "metadata": {"n": (start + i) % 100}, "vector": vector}
            for i, vector in enumerate(vectors[start : start + BATCH])
        ]
        began = time.process_time()
        spent += timed(lambda batch=batch: collection.upsert(batch))
        cpu += time.process_time() - began
    return {"ingest_per_s": len(vectors) / spent * 1000, "ingest_per_cpu_s": len(vectors) / cpu}


def raw_search(collection: Collection, vectors: Floats) -> Callable[[Floats], object]:
    """FAISS alone, on the very same index with the same parameters; a flat index if none is built."""
    base = collection.local.base
    if base is None:
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        return lambda query: flat.search(query, K)
    parameters = base.parameters(K)
    return lambda query: base.outer.search(query, K, params=parameters)


def compare(collection: Collection, vectors: Floats, queries: Floats, truth: npt.NDArray[np.int64]) -> dict[str, Any]:
    """One query at a time: raw FAISS, our dense search, and our dense search with the documents fetched."""
    raw = raw_search(collection, vectors)
    times: dict[str, list[float]] = {"raw": [], "store": [], "documents": []}
    before = disk_reads()
    for turn, query in enumerate(queries):
        one = query[None]
        works: list[tuple[str, Callable[[], object]]] = [
            ("raw", lambda one=one: raw(one)),
            ("store", lambda one=one: collection.dense(one, K)),
            ("documents", lambda one=one: collection.documents(collection.dense(one, K)[0].labels)),
        ]
        for name, work in works[turn % 3 :] + works[: turn % 3]:  # nobody always comes to a warm cache
            times[name].append(timed(work))
    found: dict[str, Any] = {"disk_mb_read_meanwhile": (disk_reads() - before) / 1e6}
    for name, values in times.items():
        found |= with_interval(f"{name}_p50_ms", values)
    for name in ("store", "documents"):
        pairs = list(zip(times[name], times["raw"], strict=True))
        found |= with_interval(f"{name}_over_raw", pairs, of=ratio_of_medians)
    return found | with_interval("recall_at_10", recall(collection, queries, truth), of=np.mean)


def ratio_of_medians(pairs: npt.NDArray[np.float64]) -> float:
    return float(np.median(pairs[:, 0]) / np.median(pairs[:, 1]))


def recall(collection: Collection, queries: Floats, truth: npt.NDArray[np.int64], clause: Any = None) -> list[float]:
    """Of each query, the share of its nearest that were found."""
    shares = []
    for query, best in zip(queries, truth, strict=True):
        [found] = collection.dense(query[None], K, clause)
        hits = {f"d{i}" for i in best} & {d.id for d in collection.documents(found.labels).values()}
        shares.append(len(hits) / len(best))
    return shares


def nearest(vectors: Floats, queries: Floats) -> npt.NDArray[np.int64]:
    return faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]


def filtered(collection: Collection, vectors: Floats, queries: Floats) -> dict[str, Any]:
    """A filter that lets one in a hundred through: looked up anew (as after a write), and remembered."""
    clause = compile_filter(FILTER)
    fresh = []
    for query in queries[:20]:
        collection._filters.clear()
        fresh.append(timed(lambda query=query: collection.dense(query[None], K, clause)))
    remembered = [timed(lambda query=query: collection.dense(query[None], K, clause)) for query in queries]
    allowed = np.arange(7, len(vectors), 100)
    return {
        **with_interval("filter_fresh_p50_ms", fresh),
        **with_interval("filter_p50_ms", remembered),
        **with_interval(
            "filter_recall_at_10",
            recall(collection, queries, allowed[nearest(vectors[allowed], queries)], clause),
            of=np.mean,
        ),
    }


def rebuilding(collection: Collection, queries: Floats) -> dict[str, Any]:
    """Searches while the index is built anew in another thread, against searches before and after.

    They are due at fixed moments, and late from then on: a search that hangs makes all those late that wait for it.
    """
    done = threading.Event()
    seconds = 0.0

    def rebuild() -> None:
        nonlocal seconds
        use_threads(1)
        give_way()  # as the server's thread for this does
        seconds = timed(lambda: collection.maintain("rebuild")) / 1000
        done.set()

    def searches(times: list[float], goes_on: Callable[[], bool], every_s: float) -> list[float]:
        due = time.perf_counter()
        while goes_on():
            time.sleep(max(0.0, due - time.perf_counter()))
            collection.dense(queries[len(times) % len(queries)][None], K)
            times.append((time.perf_counter() - due) * 1000)
            due += every_s
        return times

    alone = statistics.median(timed(lambda query=query: collection.dense(query[None], K)) for query in queries[:100])
    every_s = max(0.003, 4 * alone / 1000)
    quiet: list[float] = []
    searches(quiet, lambda: len(quiet) < 1_000, every_s)
    thread = threading.Thread(target=rebuild)
    thread.start()
    busy = searches([], lambda: not done.is_set(), every_s)
    thread.join()
    searches(quiet, lambda: len(quiet) < 2_000, every_s)
    return {
        "rebuild_s": seconds,
        "searches_every_ms": 1000 * every_s,
        **with_interval("quiet_p50_ms", quiet),
        **with_interval("quiet_p99_ms", quiet, of=p99),
        **with_interval("rebuild_p50_ms", busy),
        **with_interval("rebuild_p99_ms", busy, of=p99),
        **with_interval("rebuild_over_quiet_p99", busy, quiet, of=lambda busy, quiet: p99(busy) / p99(quiet)),
        "rebuild_longest_ms": max(busy),
        "quiet_longest_ms": max(quiet),
        "searches_during_rebuild": len(busy),
    }


def start(folder: Path) -> dict[str, float]:
    """Open a data folder in this fresh process: how long, and how much memory, against what the vectors take."""
    before = resident_bytes()
    began, cpu = time.perf_counter(), time.process_time()
    catalog = Catalog(folder, Edges())
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    collection = catalog.get("a")
    query = np.eye(1, collection.dimensions, dtype=np.float32)
    for _ in range(100):
        collection.dense(query, K)
    taken = resident_bytes() - before
    doubts, rows = len(collection.doubts), len(collection.index)
    catalog.close()
    return {
        "start_s": seconds,
        "start_cpu_s": cpu,
        "start_doubts": doubts,
        "memory_over_vectors": taken / (rows * 4 * query.shape[1]),
    }


def measure(kind: str, vectors: Floats, queries: Floats, truth: npt.NDArray[np.int64], folder: Path) -> dict[str, Any]:
    catalog = Catalog(folder, Edges())
    found: dict[str, Any] = {}
    if list(catalog):
        collection = catalog.get("a")
    else:
        collection = catalog.create("a", KINDS[kind], dimensions=vectors.shape[1], fingerprint=None)
        found |= ingest(collection, vectors)
        print(kind, "ingested", found, file=sys.stderr, flush=True)
        found["build_s"] = timed(collection.maintain) / 1000
        print(kind, "built", found, file=sys.stderr, flush=True)
    if collection.local.base is not None:
        found |= rebuilding(collection, queries)
        found["width"] = collection.local.base.width
    print(kind, "rebuilt", found, file=sys.stderr, flush=True)
    found |= compare(collection, vectors, queries, truth) | filtered(collection, vectors, queries)
    catalog.close()
    command = [sys.executable, __file__, "--start", str(folder)]
    return found | json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def rounded(value: Any) -> Any:
    """A figure, or both ends of its interval, to four places."""
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--folder", type=Path, help="keep the data there; where it is already, it is not written again")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    use_threads(1)
    if arguments.start:
        print(json.dumps(start(arguments.start)))
        return
    with tempfile.NamedTemporaryFile() as scratch:
        run(arguments, Path(scratch.name))


def run(arguments: argparse.Namespace, scratch: Path) -> None:
    topics = max(1, arguments.rows // 100)
    vectors = clustered(arguments.rows, arguments.dimensions, 1, topics, scratch)
    queries = clustered(arguments.queries, arguments.dimensions, 2, topics)
    truth = nearest(vectors, queries)
    report: dict[str, Any] = {
        "about": about(),
        "rows": arguments.rows,
        "dimensions": arguments.dimensions,
        "queries": arguments.queries,
        "faiss": faiss.__version__,
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 1),
    }
    for kind in arguments.kind or ("flat", "ivf", "hnsw", "sq8"):
        with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as folder:
            found = measure(kind, vectors, queries, truth, Path(folder))
        report[kind] = {name: rounded(value) for name, value in found.items()}
        print(kind, json.dumps(report[kind], indent=2), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
