"""Dense search on this machine: a fixed `Base` for the many, a `Matrix` for what came since, a mask for the dead.

    flat (small)        everything is in the matrix, every answer exact
    built (large)       base + matrix, merged and rebuilt by `maintain` in the background

Searches read one `_State` and take no lock. Writers make the next state under a lock and swap the pointer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np

from grace_server.index.approximate import Base
from grace_server.index.building import build, least_rows, outgrown
from grace_server.index.matrix import Living, Matrix, nearest
from grace_server.index.settings import CollectionSettings
from grace_server.index.vector_index import Fetch, Neighbours
from grace_server.index.vectors import Floats, Labels

Work = Literal["build", "merge", "rebuild", "flatten"]
Chunks = Callable[[], Iterable[tuple[Labels, Floats]]]
Exclusively = Callable[[Callable[[], None]], None]  # runs it while no write is between its commit and this index

BUILD_CHUNK = 1_024  # rows copied at a time during a build
MERGE_ROWS, MERGE_SHARE = 1_000, 0.02  # rows waiting in the matrix before they are merged: whichever is larger
DEAD_SHARE = 0.2  # of the base before it is rebuilt
SCAN_ROWS, SCAN_SHARE = 20_000, 0.02  # allowed labels up to which they are compared one by one: whichever is larger
FLATTEN_SHARE = 0.5  # of flat_limit, below which a base is given up


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    matrix: Matrix
    base: Base | None = None
    living: Living | None = None  # rows of the base; None while all of them are

    @property
    def dead(self) -> int:
        """Dead rows of the base."""
        return 0 if self.base is None or self.living is None else len(self.base) - self.living.number

    @property
    def built(self) -> int:
        """Living rows of the base."""
        return 0 if self.base is None else len(self.base) - self.dead

    def chunks(self) -> Iterable[tuple[Labels, Floats]] | None:
        """All living vectors, a few at a time; None if not all of them are in memory."""
        held = iter(()) if self.base is None else self.base.chunks(self.living, BUILD_CHUNK)
        return None if held is None else chain(held, self.matrix.chunks(BUILD_CHUNK))


class FaissIndex:
    """`VectorIndex` over FAISS. `fetch` reads stored vectors where the index does not hold them as they are."""

    def __init__(
        self, dimensions: int, settings: CollectionSettings, fetch: Fetch, *, base: Base | None = None
    ) -> None:
        self.dimensions = dimensions
        self._settings = settings
        self._fetch = fetch
        self._writing = threading.Lock()
        self._maintaining = threading.Lock()
        self._state = _State(Matrix.empty(dimensions), base)

    def load(self, live: Labels, chunks: Chunks) -> None:
        """Become the index of exactly the `live` labels: the base's others are dead, the rest comes from `chunks`."""
        base = self._state.base
        state = _State(Matrix.empty(self.dimensions, capacity=len(live) if base is None else 0), base)
        if base is not None:
            mask = np.zeros(len(base), np.bool_)
            mask[base.positions(live)] = True
            state = replace(state, living=None if mask.all() else Living.of(mask))
        for labels, vectors in chunks():
            state = replace(state, matrix=state.matrix.with_rows(labels, vectors))
        with self._writing:
            self._state = state

    def add(self, labels: Labels, vectors: Floats) -> None:
        """Add labels; found by every search that begins after this returns."""
        with self._writing:
            self._state = replace(self._state, matrix=self._state.matrix.with_rows(labels, vectors))

    def remove(self, labels: Labels) -> None:
        """Forget labels; no search that begins after this returns finds them."""
        if not len(labels):
            return
        with self._writing:
            self._state = _without(self._state, labels)

    def labels(self) -> Labels:
        """All living labels, ascending."""
        state = self._state
        parts = [state.matrix.labels]
        if state.base is not None:
            parts.append(state.base.labels if state.living is None else state.base.labels[state.living.mask])
        return np.sort(np.concatenate(parts))

    def __len__(self) -> int:
        state = self._state
        return len(state.matrix) + state.built

    def close(self) -> None:
        """Let go of the vectors."""
        with self._writing:
            self._state = _State(Matrix.empty(self.dimensions))

    def discard(self) -> None:
        """Nothing: all of it is in the collection's folder."""

    def differing(self, labels: Labels, vectors: Floats) -> Labels:
        """Those of (N,) labels whose vectors in memory are not the (N, H) given ones; quantised ones pass."""
        state = self._state
        wrong = [_differing(state.matrix.labels, state.matrix.vectors, labels, vectors)]
        if state.base is not None and (rows := state.base.rows()) is not None:
            wrong.append(_differing(state.base.labels, rows, labels, vectors))
        return np.concatenate(wrong)

    @property
    def base(self) -> Base | None:
        """The built part, if there is one."""
        return self._state.base

    @property
    def tombstones(self) -> int:
        """Rows that are still in memory though their labels were removed."""
        return self._state.dead + self._state.matrix.dead

    def search(self, queries: Floats, k: int, *, allowed: Labels | None = None) -> list[Neighbours]:
        """The k nearest of each query; a filter that lets few through is answered by comparing those, exactly."""
        state = self._state
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.shape[1] != self.dimensions:  # FAISS would read beyond the rows
            raise ValueError(f"queries of {queries.shape[1]} dimensions in an index of {self.dimensions}")
        if state.base is None:
            labels, scores = state.matrix.search(queries, k, allowed=allowed)
            return [_sorted(labels[i], scores[i], k, exact=True) for i in range(len(queries))]
        found = self._search_base(state, state.base, queries, k, allowed)
        if not len(state.matrix):
            return [_sorted(one.labels, one.scores, k, exact=one.exact) for one in found]
        labels, scores = state.matrix.search(queries, k, allowed=allowed)
        return [
            _sorted(
                np.concatenate([one.labels, labels[i]]), np.concatenate([one.scores, scores[i]]), k, exact=one.exact
            )
            for i, one in enumerate(found)
        ]

    def due(self) -> Work | None:
        """What `maintain` would do now."""
        state, settings = self._state, self._settings
        if state.base is None:
            big = settings.kind != "flat" and len(state.matrix) > max(settings.flat_limit, least_rows(settings) - 1)
            return "build" if big else None
        if len(state.matrix) + state.built <= settings.flat_limit * FLATTEN_SHARE:
            return "flatten"
        if state.dead > DEAD_SHARE * len(state.base) or outgrown(state.base, state.built + len(state.matrix)):
            return "rebuild"
        if state.matrix.size > max(MERGE_ROWS, MERGE_SHARE * len(state.base)):
            return "merge"
        return None

    def maintain(self, work: Work, chunks: Chunks, *, stop: Callable[[], bool], exclusively: Exclusively) -> None:
        """Do what is due, beside searches and writes; one call at a time. `chunks` yields all stored vectors, and is
        asked only where they are not in memory.

        Raises:
            Stopped: `stop` said so; nothing has changed.
        """
        with self._maintaining:
            start = self._state
            rows = len(start.matrix) + start.built
            match work:
                case _ if work == "flatten" or rows < least_rows(self._settings):
                    base = None
                case "merge" if start.base is not None:
                    base = start.base.extended(start.matrix.labels, start.matrix.vectors, stop)
                case _:
                    base = build(
                        lambda: start.chunks() or chunks(),
                        size=rows,
                        dimensions=self.dimensions,
                        settings=self._settings,
                        stop=stop,
                    )
            exclusively(lambda: self._swap(base))

    def _swap(self, base: Base | None) -> None:
        """Take a new base, keeping in the matrix what it does not have."""
        fresh = FaissIndex(self.dimensions, self._settings, self._fetch, base=base)
        live = self.labels()
        missing = live if base is None else np.setdiff1d(live, base.labels, assume_unique=True)
        fresh.load(live, lambda: [self._fetch(missing)] if len(missing) else [])
        with self._writing:
            self._state = fresh._state

    def _search_base(
        self, state: _State, base: Base, queries: Floats, k: int, allowed: Labels | None
    ) -> list[Neighbours]:
        living = state.living
        if allowed is not None:
            positions = base.positions(allowed)
            if living is not None:
                positions = positions[living.mask[positions]]
            if len(positions) <= max(SCAN_ROWS, SCAN_SHARE * len(base)):
                return self._scan(base, queries, k, positions)
            mask = np.zeros(len(base), np.bool_)
            mask[positions] = True
            living = Living.of(mask)
        number = len(base) if living is None else living.number
        if not number:
            return [Neighbours(np.empty(0, np.int64), np.empty(0, np.float32), exact=True)] * len(queries)
        wanted = min(k * self._settings.rescore if base.quantised else k, len(base))
        positions, scores = base.search(queries, wanted, living=living)
        found: list[Neighbours] = []
        for i in range(len(queries)):
            reached = positions[i]
            if reached[-1] < 0:
                reached = reached[reached >= 0]
                if len(reached) < min(k, number):  # the walk got lost among masked rows: never answer with fewer
                    everywhere = np.arange(len(base)) if living is None else np.flatnonzero(living.mask)
                    found += self._scan(base, queries[i : i + 1], k, everywhere)
                    continue
            labels = base.labels[reached]
            if base.quantised:
                stored, vectors = self._fetch(labels)
                found.append(_sorted(stored, vectors @ queries[i], k, exact=False))
            else:
                found.append(Neighbours(labels, scores[i][: len(labels)], exact=False))
        return found

    def _scan(self, base: Base, queries: Floats, k: int, positions: Labels) -> list[Neighbours]:
        """Compare some rows of the base one by one."""
        found = base.scan(queries, k, positions)
        if found is None:
            stored, vectors = self._fetch(base.labels[positions])
            found = nearest(queries, stored, vectors, k)
        labels, scores = found
        return [_sorted(labels[i], scores[i], k, exact=True) for i in range(len(queries))]


def _without(state: _State, labels: Labels) -> _State:
    matrix = state.matrix.without(labels)
    if state.base is None:
        return replace(state, matrix=matrix)
    positions = state.base.positions(labels)
    if not len(positions):
        return replace(state, matrix=matrix)
    mask = np.ones(len(state.base), np.bool_) if state.living is None else state.living.mask.copy()
    mask[positions] = False
    return replace(state, matrix=matrix, living=Living.of(mask))


def _differing(held: Labels, rows: Floats, labels: Labels, vectors: Floats) -> Labels:
    common, mine, theirs = np.intersect1d(held, labels, assume_unique=True, return_indices=True)
    return np.asarray(common[(rows[mine] != vectors[theirs]).any(axis=1)])


def _sorted(labels: Labels, scores: Floats, k: int, *, exact: bool) -> Neighbours:
    """The k best, best first; ties go to the smaller label, so that pages do not overlap."""
    order = np.lexsort((labels, -scores))[:k]
    return Neighbours(labels[order], scores[order], exact)
