"""The large, fixed part of an index: FAISS HNSW or IVF over the rows there were when it was built.

FAISS cannot delete from HNSW, is not safe for a write beside a search, and takes an id twice: so a `Base` is never
changed. The dead are masked, the new wait in a `Matrix`, and a new base is built beside it (`building.py`).

An IVF index scans 8-bit copies of the vectors in the nearest cells and scores the best of them again from float32 rows
that lie beside them, so its scores are exact. How many cells that is, or how wide HNSW walks, is measured when the
index is built, and kept in FAISS's own file. N rows, Q queries.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import faiss as faiss_with_stubs
import numpy as np

from grace_server.index.matrix import Living, nearest_of
from grace_server.index.settings import CollectionSettings
from grace_server.index.vectors import Floats, Labels

faiss: Any = faiss_with_stubs  # its own stubs lack half of what it has (1.15)

FAISS_VERSION: str = faiss.__version__
ADDED_AT_ONCE = 1_024  # rows added between two looks at whether to stop
WIDEST_WALK = 4_096  # HNSW's efSearch under a filter
BACKGROUND_NICENESS = 10
PROBED_ROWS = 16  # that IVF looks at for each hit asked for, at least: its probes were measured for ten hits

Ann = Literal["hnsw", "ivf"]


class Stopped(Exception):
    """A build was given up because the process is closing."""


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """A built FAISS index. Positions are places in `labels`."""

    index: Any  # faiss.IndexIDMap around the others
    labels: Labels  # (N,) distinct
    settings: CollectionSettings
    order: Labels | None = None  # (N,) positions by ascending label; None where the labels ascend anyway
    outer: Any = field(init=False)  # IndexRefineFlat, or the same as inner
    inner: Any = field(init=False)  # IndexIVF or IndexHNSW
    _unmasked: dict[int, Any] = field(init=False, default_factory=dict)  # FAISS's parameters by k: slow to make

    def __post_init__(self) -> None:
        outer = faiss.downcast_index(self.index.index)
        refined = isinstance(outer, faiss.IndexRefine)
        object.__setattr__(self, "outer", outer)
        object.__setattr__(self, "inner", faiss.downcast_index(outer.base_index) if refined else outer)

    @classmethod
    def of(cls, index: Any, labels: Labels, settings: CollectionSettings) -> Base:
        """A base around a FAISS index.

        Raises:
            ValueError: a label comes twice.
        """
        steps = np.diff(labels)
        if (steps > 0).all():
            return cls(index, labels, settings)
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

    @property
    def width(self) -> int:
        """How many cells an IVF search probes, or how wide HNSW walks, where no filter and no large k ask for more."""
        return int(self.inner.nprobe if isinstance(self.inner, faiss.IndexIVF) else self.inner.hnsw.efSearch)

    @property
    def cells(self) -> int | None:
        """How many cells IVF has."""
        return int(self.inner.nlist) if isinstance(self.inner, faiss.IndexIVF) else None

    def positions(self, labels: Labels) -> Labels:
        """Places of those of the labels that are in it."""
        if not len(self.labels):
            return np.empty(0, np.int64)
        places = np.searchsorted(self.labels, labels, sorter=self.order).clip(max=len(self.labels) - 1)
        if self.order is not None:
            places = self.order[places]
        return np.asarray(places[self.labels[places] == labels], dtype=np.int64)

    def search(self, queries: Floats, k: int, *, living: Living | None = None) -> tuple[Labels, Floats]:
        """Positions (Q, k) and scores; -1 where the walk found no more. Rows that are not `living` are not found."""
        if living is not None:
            parameters = self._parameters(k, max(1, living.number) / len(living.mask), living.selector)
        else:
            parameters = self.parameters(k)
        scores, positions = self.outer.search(queries, k, params=parameters)
        return positions, scores

    def parameters(self, k: int) -> Any:
        """FAISS's parameters of a search without a mask."""
        if (known := self._unmasked.get(k)) is None:
            known = self._unmasked[k] = self._parameters(k, 1.0, None)
        return known

    def _parameters(self, k: int, share: float, selector: Any) -> Any:
        """The fewer rows a mask lets through, the wider a search has to look."""
        if not isinstance(self.inner, faiss.IndexIVF):
            width = min(max(self.width, 2 * k) / share, max(WIDEST_WALK, self.width, 2 * k))
            return faiss.SearchParametersHNSW(sel=selector, efSearch=math.ceil(width))
        cells_of_hits = PROBED_ROWS * k * self.inner.nlist / max(1, len(self))
        probes = min(self.inner.nlist, math.ceil(max(self.width, cells_of_hits) / share))
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        if self.outer is self.inner:
            return parameters
        return faiss.IndexRefineSearchParameters(k_factor=self.settings.rescore, base_index_params=parameters)

    def rows(self) -> Floats | None:
        """(N, H) a view of the vectors, without a copy, where the index holds them as they are; otherwise None."""
        if self.quantised:
            return None
        store = self.inner.storage if self.outer is self.inner else self.outer.refine_index
        flat = faiss.downcast_index(store)
        return np.asarray(faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)).reshape(flat.ntotal, flat.d)

    def chunks(self, living: Living | None, rows: int) -> Iterator[tuple[Labels, Floats]] | None:
        """The living rows, so many at a time; None if the vectors are not in memory."""
        if (held := self.rows()) is None:
            return None
        keep = np.arange(len(self)) if living is None else np.flatnonzero(living.mask)
        return ((self.labels[some], held[some]) for some in np.split(keep, range(rows, len(keep), rows)))

    def scan(self, queries: Floats, k: int, positions: Labels) -> tuple[Labels, Floats] | None:
        """Labels and scores of the nearest among some positions, exactly; None if the vectors are not in memory."""
        rows = self.rows()
        return None if rows is None else nearest_of(queries, self.labels, rows, k, positions)

    def extended(self, labels: Labels, vectors: Floats, stop: Callable[[], bool]) -> Base:
        """A copy of this base with (N,) more rows, whose labels it does not have.

        Raises:
            Stopped: `stop` said so.
        """
        index = faiss.clone_index(self.index)
        add_rows(index, labels, vectors, stop)
        base = Base.of(index, np.concatenate([self.labels, labels]), self.settings)
        base.set_width(self.width)
        return base

    def set_width(self, width: int) -> None:
        """Decide how wide searches look. While it is being built only."""
        self._unmasked.clear()
        if isinstance(self.inner, faiss.IndexIVF):
            self.inner.nprobe = min(width, self.inner.nlist)
        else:
            self.inner.hnsw.efSearch = width


def kind_of(settings: CollectionSettings) -> Ann:
    """Which approximate index a collection takes once it is large."""
    return "hnsw" if settings.kind == "hnsw" else "ivf"


def add_rows(index: Any, labels: Labels, vectors: Floats, stop: Callable[[], bool]) -> None:
    """Add rows to a FAISS index that no search knows yet.

    Raises:
        Stopped: `stop` said so.
    """
    for start in range(0, len(labels), ADDED_AT_ONCE):
        if stop():
            raise Stopped
        some = slice(start, start + ADDED_AT_ONCE)
        index.add_with_ids(np.ascontiguousarray(vectors[some]), labels[some])


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
    if not isinstance(index, faiss.IndexIDMap):
        raise ValueError("it holds another kind of index")
    labels = faiss.vector_to_array(index.id_map).astype(np.int64)
    if len(labels) != index.ntotal:
        raise ValueError("its labels are not as many as its rows")
    base = Base.of(index, labels, settings)
    expected = faiss.IndexIVF if kind_of(settings) == "ivf" else faiss.IndexHNSW
    refined = kind_of(settings) == "ivf" and not base.quantised
    if not isinstance(base.inner, expected) or refined is (base.outer is base.inner):
        raise ValueError("it holds another kind of index")
    return base


def use_threads(number: int) -> None:
    """How many threads FAISS takes for calls from this thread."""
    faiss.omp_set_num_threads(number)


def give_way() -> None:
    """Let other threads of this process have the processor before this one, where the system knows how."""
    if sys.platform == "linux":  # elsewhere a priority belongs to the process, searches included
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BACKGROUND_NICENESS)
