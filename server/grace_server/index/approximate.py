"""The large, fixed part of an index: FAISS HNSW or IVF over the rows there were when it was built.

FAISS cannot delete from HNSW, is not safe for a write beside a search, and takes an id twice: so a `Base` is never
changed. The dead are masked, the new wait in a `Matrix`, and a new base is built beside it. N rows, Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss as faiss_with_stubs
import numpy as np

from grace_server.index.matrix import Mask, nearest
from grace_server.index.settings import CollectionSettings
from grace_server.index.vectors import Floats, Labels

faiss: Any = faiss_with_stubs  # its own stubs lack half of what it has (1.15)

FAISS_VERSION: str = faiss.__version__
BUILD_CHUNK = 1_024  # rows added between two looks at whether to stop
TRAINING_PER_CELL = 64  # rows; FAISS warns below 39
PQ_BITS = 8

Ann = Literal["hnsw", "ivf"]


class Stopped(Exception):
    """A build was given up because the process is closing."""


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A built FAISS index. Positions are places in `labels`."""

    index: Any  # faiss.IndexIDMap around HNSW or IVF
    labels: Labels  # (N,) distinct
    settings: CollectionSettings
    order: Labels | None  # (N,) positions by ascending label; None where the labels ascend anyway

    @classmethod
    def of(cls, index: Any, labels: Labels, settings: CollectionSettings) -> Base:
        """A base around a FAISS index.

        Raises:
            ValueError: a label comes twice.
        """
        steps = np.diff(labels)
        if (steps > 0).all():
            return cls(index, labels, settings, None)
        order = np.argsort(labels, kind="stable")
        if (np.diff(labels[order]) == 0).any():
            raise ValueError("a label comes twice")
        return cls(index, labels, settings, order)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def quantised(self) -> bool:
        """Whether its scores are estimates, to be computed again from the stored vectors."""
        return self.settings.quantization != "none"

    def positions(self, labels: Labels) -> Labels:
        """Places of those of the labels that are in it."""
        if not len(self.labels):
            return np.empty(0, np.int64)
        places = np.searchsorted(self.labels, labels, sorter=self.order).clip(max=len(self.labels) - 1)
        if self.order is not None:
            places = self.order[places]
        return np.asarray(places[self.labels[places] == labels], dtype=np.int64)

    def search(self, queries: Floats, k: int, *, alive: Mask | None) -> tuple[Labels, Floats]:
        """Positions (Q, k) and scores; -1 where the walk found no more. `alive` (N,) masks rows out."""
        index, settings = faiss.downcast_index(self.index.index), self.settings
        selector = bits = None
        if alive is not None:
            bits = np.packbits(alive, bitorder="little")  # must outlive the search: FAISS keeps a bare pointer
            selector = faiss.IDSelectorBitmap(len(alive), faiss.swig_ptr(bits))
        if isinstance(index, faiss.IndexIVF):
            probes = max(1, math.ceil(index.nlist * settings.probes))
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        else:
            parameters = faiss.SearchParametersHNSW(sel=selector, efSearch=max(settings.search_width, 2 * k))
        scores, positions = index.search(queries, k, params=parameters)
        return positions, scores

    def rows(self) -> Floats | None:
        """(N, H) a view of the vectors, without a copy, where the index holds them as they are; otherwise None."""
        index = faiss.downcast_index(self.index.index)
        if self.quantised or not isinstance(index, faiss.IndexHNSW):
            return None
        storage = faiss.downcast_index(index.storage)
        flat = faiss.rev_swig_ptr(storage.get_xb(), storage.ntotal * storage.d)
        return np.asarray(flat).reshape(storage.ntotal, storage.d)

    def scan(self, queries: Floats, k: int, positions: Labels) -> tuple[Labels, Floats] | None:
        """Labels and scores of the nearest among some positions, exactly; None if the vectors are not in memory."""
        rows = self.rows()
        return None if rows is None else nearest(queries, self.labels[positions], rows[positions], k)

    def extended(self, labels: Labels, vectors: Floats, stop: Callable[[], bool]) -> Base:
        """A copy of this base with (N,) more rows, whose labels it does not have.

        Raises:
            Stopped: `stop` said so.
        """
        index = faiss.clone_index(self.index)
        _add(index, labels, vectors, stop)
        return Base.of(index, np.concatenate([self.labels, labels]), self.settings)


def kind_of(settings: CollectionSettings) -> Ann:
    """Which approximate index a collection takes once it is large."""
    return "ivf" if settings.kind == "ivf" else "hnsw"


def build(
    chunks: Callable[[], Iterable[tuple[Labels, Floats]]],  # called twice where training is needed
    *,
    size: int,  # about how many rows there are
    dimensions: int,
    settings: CollectionSettings,
    stop: Callable[[], bool],
) -> Base:
    """Build a base from vectors that come in chunks, so that they are not in memory twice.

    Raises:
        Stopped: `stop` said so.
    """
    inner = faiss.index_factory(dimensions, _recipe(size, dimensions, settings), faiss.METRIC_INNER_PRODUCT)
    if isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efConstruction = settings.build_width
    if not inner.is_trained:
        wanted = max(TRAINING_PER_CELL * getattr(inner, "nlist", 256), 256 * TRAINING_PER_CELL)
        inner.train(_sample(chunks(), size, wanted))
    index = faiss.IndexIDMap(inner)
    parts: list[Labels] = []
    for labels, vectors in chunks():
        _add(index, labels, vectors, stop)
        parts.append(labels)
    return Base.of(index, np.concatenate(parts) if parts else np.empty(0, np.int64), settings)


def save(base: Base, write: Callable[[bytes], None]) -> None:
    """Hand the bytes of a base to `write`, about a MiB at a time. What `write` raises comes out here."""
    raised: list[BaseException] = []

    def guarded(block: bytes) -> None:
        try:
            write(bytes(block))
        except BaseException as error:
            raised.append(error)
            raise

    try:
        faiss.write_index(base.index, faiss.PyCallbackIOWriter(guarded, 1 << 20))
    except BaseException:
        if raised:  # FAISS turns it into a RuntimeError of its own
            raise raised[0] from None
        raise


def load(path: Path, settings: CollectionSettings) -> Base:
    """Read a base whose bytes have been verified.

    Raises:
        ValueError: it is not what these settings would have built.
    """
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ValueError(f"FAISS does not read it: {error}") from error
    expected = faiss.IndexIVF if kind_of(settings) == "ivf" else faiss.IndexHNSW
    if not isinstance(index, faiss.IndexIDMap) or not isinstance(faiss.downcast_index(index.index), expected):
        raise ValueError("it holds another kind of index")
    labels = faiss.vector_to_array(index.id_map).astype(np.int64)
    if len(labels) != index.ntotal:
        raise ValueError("its labels are not as many as its rows")
    return Base.of(index, labels, settings)


def use_threads(number: int) -> None:
    """How many threads FAISS takes for calls from this thread."""
    faiss.omp_set_num_threads(number)


def _recipe(size: int, dimensions: int, settings: CollectionSettings) -> str:
    subvectors = next(m for m in range(max(1, dimensions // 4), 0, -1) if dimensions % m == 0)
    codes = {"none": "Flat", "sq8": "SQ8", "pq": f"PQ{subvectors}"}[settings.quantization]
    if kind_of(settings) == "ivf":
        cells = max(1, min(round(4 * math.sqrt(size)), size // 39 or 1))
        return f"IVF{cells},{codes}"
    return f"HNSW{settings.links},{codes}"


def _sample(chunks: Iterable[tuple[Labels, Floats]], size: int, wanted: int) -> Floats:
    """About `wanted` rows, spread evenly."""
    step = max(1, size // wanted)
    return np.concatenate([vectors[::step] for _, vectors in chunks])


def _add(index: Any, labels: Labels, vectors: Floats, stop: Callable[[], bool]) -> None:
    for start in range(0, len(labels), BUILD_CHUNK):
        if stop():
            raise Stopped
        some = slice(start, start + BUILD_CHUNK)
        index.add_with_ids(np.ascontiguousarray(vectors[some]), labels[some])
