"""Building a base: train it on a sample, add every row, measure how wide a search has to look.

Training is done in short pieces with a look at `stop` between them, since FAISS's own cannot be interrupted and a
process that wants to end would wait for it. N rows, S sampled rows, C cells, H dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import faiss as faiss_with_stubs
import numpy as np

from grace_server.index.approximate import Base, Stopped, add_rows, kind_of
from grace_server.index.settings import CollectionSettings
from grace_server.index.vectors import Floats, Labels

faiss: Any = faiss_with_stubs  # its own stubs lack half of what it has (1.15)

Chunks = Callable[[], Iterable[tuple[Labels, Floats]]]
Stop = Callable[[], bool]

TRAINING_PER_CELL = 64  # rows; FAISS warns below 39
TRAINING_ROUNDS = 5  # of k-means; ten, as FAISS does, find no better cells (200,000 x 384: the same recall and width)
CODEBOOK_ROWS = 256 * 64  # from which the 256 centroids of each PQ code are trained
CODEBOOK_ROUNDS = 25
LEAST_ROWS_FOR_CODES = 512  # of which some are set aside; a PQ code has 256 centroids
PROBE_QUERIES = 200  # stored rows that play the query when the width is measured
PROBE_K = 10
LEAST_PROBES, LEAST_WIDTH = 16, 48  # real queries lie further from the rows than rows do
WIDER = 1.5  # from one width that is tried to the next


def build(chunks: Chunks, *, size: int, dimensions: int, settings: CollectionSettings, stop: Stop) -> Base:
    """Build a base from about `size` vectors that come in chunks, so that they are not in memory twice.

    `chunks` is called twice: for a sample to train on and to measure with, and for all.

    Raises:
        Stopped: `stop` said so.
    """
    outer = faiss.index_factory(dimensions, _recipe(size, dimensions, settings), faiss.METRIC_INNER_PRODUCT)
    index = faiss.IndexIDMap(outer)
    base = Base(index, np.empty(0, np.int64), settings)
    wanted = max(TRAINING_PER_CELL * (base.cells or 0), CODEBOOK_ROWS) + PROBE_QUERIES
    labels, sample = _sample(chunks(), size, wanted, dimensions, stop)
    if kind_of(settings) == "hnsw":
        base.inner.hnsw.efConstruction = settings.build_width
    chosen = np.linspace(0, len(sample) - 1, min(PROBE_QUERIES, len(sample) // 2)).astype(np.int64)
    probing = _Probing(labels[chosen], sample[chosen])
    _train(base, np.delete(sample, chosen, axis=0), stop)  # cells drawn around those rows would flatter them
    parts: list[Labels] = []
    for some, vectors in chunks():
        add_rows(index, some, vectors, stop)
        probing.see(some, vectors)
        parts.append(some)
    built = Base.of(index, np.concatenate(parts) if parts else np.empty(0, np.int64), settings)
    built.set_width(_given_width(built) or probing.width(built, settings.recall, stop))
    return built


def cells_for(rows: int) -> int:
    """How many cells an IVF index over that many rows gets."""
    return max(1, min(round(2 * math.sqrt(rows)), rows // 39 or 1))


def least_rows(settings: CollectionSettings) -> int:
    """Below so many rows nothing can be trained, and a collection stays flat whatever its settings say."""
    return LEAST_ROWS_FOR_CODES if settings.quantization == "pq" else 1


def outgrown(base: Base, rows: int) -> bool:
    """Whether an index was trained for so few rows that its cells have become too large."""
    return base.cells is not None and cells_for(rows) > 2 * base.cells


class _Probing:
    """The exact neighbours of some stored rows, gathered while all rows go by; then how wide one has to look."""

    def __init__(self, labels: Labels, queries: Floats) -> None:
        self._own = labels
        self._queries = np.ascontiguousarray(queries)
        self._labels = np.full((len(labels), PROBE_K), -1, np.int64)
        self._scores = np.full((len(labels), PROBE_K), -np.inf, np.float32)

    def see(self, labels: Labels, vectors: Floats) -> None:
        """Take (N,) more rows into account."""
        if not len(self._own) or not len(labels):
            return
        scores = self._queries @ vectors.T
        scores[self._own[:, None] == labels[None]] = -np.inf  # a row is no neighbour of itself
        if not (scores.max(axis=1) > self._scores[:, -1]).any():
            return
        all_scores = np.concatenate([self._scores, scores], axis=1)
        all_labels = np.concatenate([self._labels, np.broadcast_to(labels, scores.shape)], axis=1)
        best = np.argpartition(-all_scores, PROBE_K - 1, axis=1)[:, :PROBE_K]
        self._scores = np.take_along_axis(all_scores, best, axis=1)
        self._labels = np.take_along_axis(all_labels, best, axis=1)
        order = np.argsort(-self._scores, axis=1)
        self._scores = np.take_along_axis(self._scores, order, axis=1)
        self._labels = np.take_along_axis(self._labels, order, axis=1)

    def width(self, base: Base, recall: float, stop: Stop) -> int:
        """The least width tried at which searches find that share of the neighbours; else the widest there is."""
        widest = base.cells or len(base)
        width = min(widest, LEAST_PROBES if base.cells else LEAST_WIDTH)
        while width < widest:
            if stop():
                raise Stopped
            base.set_width(width)
            if self._recall(base) >= recall:
                break
            width = min(widest, math.ceil(width * WIDER))
        return width

    def _recall(self, base: Base) -> float:
        true = [set(row[row >= 0].tolist()) for row in self._labels]
        asked = PROBE_K + 1  # itself among them
        # As a search for ten hits does: where vectors are scored again, among as many candidates as it would have.
        reach = asked * base.settings.rescore if base.quantised else asked
        positions, _ = base.search(self._queries, min(reach, len(base)))
        found = np.where(positions >= 0, base.labels[positions], -1)
        hits = sum(len(right & set(row.tolist())) for right, row in zip(true, found, strict=True))
        return hits / max(1, sum(len(right) for right in true))


def _given_width(base: Base) -> int | None:
    settings = base.settings
    if base.cells is None:
        return settings.search_width
    return None if settings.probes is None else max(1, math.ceil(base.cells * settings.probes))


def _recipe(size: int, dimensions: int, settings: CollectionSettings) -> str:
    subvectors = next(m for m in range(max(1, dimensions // 4), 0, -1) if dimensions % m == 0)
    codes = {"none": "SQ8,RFlat", "sq8": "SQ8", "pq": f"PQ{subvectors}"}[settings.quantization]
    if kind_of(settings) == "ivf":
        return f"IVF{cells_for(size)},{codes}"
    return f"HNSW{settings.links},{'Flat' if settings.quantization == 'none' else codes}"


def _sample(
    chunks: Iterable[tuple[Labels, Floats]], size: int, wanted: int, dimensions: int, stop: Stop
) -> tuple[Labels, Floats]:
    """About `wanted` rows, spread evenly."""
    step, skip = max(1, size // wanted), 0
    labels: list[Labels] = [np.empty(0, np.int64)]
    vectors: list[Floats] = [np.empty((0, dimensions), np.float32)]
    for some, rows in chunks:
        if stop():
            raise Stopped
        labels.append(some[skip::step])
        vectors.append(rows[skip::step].copy())
        skip = (skip - len(some)) % step
    return np.concatenate(labels), np.concatenate(vectors)


def _train(base: Base, sample: Floats, stop: Stop) -> None:
    """What `index.train(sample)` does, in pieces."""
    if base.outer.is_trained:
        return
    inner, rows = base.inner, sample
    if base.cells is not None:
        quantizer = faiss.downcast_index(inner.quantizer)
        quantizer.add(_centroids(sample, base.cells, TRAINING_ROUNDS, stop))
        rows = sample[:: max(1, len(sample) // CODEBOOK_ROWS)]
        if base.settings.quantization == "pq" and inner.by_residual:
            _, nearest = quantizer.search(rows, 1)
            rows = rows - quantizer.reconstruct_batch(nearest[:, 0])
    if base.settings.quantization == "pq":
        _train_codes(inner.pq if base.cells is not None else faiss.downcast_index(inner.storage).pq, rows, stop)
        if base.cells is not None:
            inner.is_trained = True
            inner.precompute_table()
        else:
            faiss.downcast_index(inner.storage).pq.compute_sdc_table()  # without it HNSW aborts the process
            faiss.downcast_index(inner.storage).is_trained = True
            inner.is_trained = True
    else:
        inner.train(rows)  # the cells are there, so this is the range of each dimension alone: no time at all
    base.outer.is_trained = base.index.is_trained = True


def _centroids(rows: Floats, count: int, rounds: int, stop: Stop) -> Floats:
    """(C, H) spherical k-means, each round from where the last one ended."""
    clustering = faiss.Clustering(rows.shape[1], count)
    clustering.niter, clustering.spherical, clustering.min_points_per_centroid = 1, True, 1
    rows = np.ascontiguousarray(rows)
    for _ in range(rounds):
        if stop():
            raise Stopped
        clustering.train(rows, faiss.IndexFlatIP(rows.shape[1]))
    return np.asarray(faiss.vector_to_array(clustering.centroids)).reshape(count, rows.shape[1])


def _train_codes(pq: Any, rows: Floats, stop: Stop) -> None:
    """The codebook of each group of dimensions."""
    groups = rows.reshape(len(rows), pq.M, pq.dsub)
    for group in range(pq.M):
        if stop():
            raise Stopped
        clustering = faiss.Clustering(pq.dsub, pq.ksub)
        clustering.niter, clustering.min_points_per_centroid = CODEBOOK_ROUNDS, 1
        clustering.train(np.ascontiguousarray(groups[:, group]), faiss.IndexFlatL2(pq.dsub))
        pq.set_params(faiss.swig_ptr(faiss.vector_to_array(clustering.centroids)), group)
