"""Representations on disk: a text is embedded once, whatever asks for it, and however often the process is killed.

A shelf is a folder for one checkpoint, engine and set of options. Each process that adds to it writes files of its own,
append-only, and reads everybody's:

    shelf.json       what the rows mean
    <writer>.ids     uint32, the rationales' token ids, one after the other
    <writer>.rows    one row of fixed size per text: vectors, counts, checksum
    <writer>.keys    16 bytes per text: a hash of everything that decides the vectors

They are written in that order, and a row counts once its key is there: what a kill cuts off is not seen. Only the keys
are held in memory, 24 bytes a text; a corpus of ten million texts takes 240 MB, its vectors stay on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from grace.pooling import Pooling
from grace.representation import Floats, Ints, Job
from grace_training.errors import TrainingError

FORMAT = 1
_KEY = np.dtype("S16")
_BUFFERED = 256  # rows between two writes: what a kill can cost
_GATHERED = 4096  # rows read at a time


class DamagedShelf(TrainingError):
    """A stored row does not pass its checksum, or a shelf is of another form."""


def key_of(job: Job) -> bytes:
    """16 bytes that name what the engine is asked for; the shelf stands for checkpoint and engine."""
    digest = hashlib.blake2b(np.asarray(job.prompt_ids, np.uint32).tobytes(), digest_size=16)
    digest.update(repr((job.pooled_from, job.max_new_tokens, job.temperature, job.sample)).encode())
    # numpy takes a zero byte at the end of a key for padding: equal keys stay equal, but sizes would not.
    return digest.digest()[:15] + b"\1"


class Shelf:
    """Vectors of texts under some poolings, by key. One process adds through one Shelf; many may share the folder."""

    def __init__(self, folder: Path, *, poolings: Sequence[Pooling], hidden: int) -> None:
        self.folder, self.poolings, self.hidden = folder, tuple(poolings), hidden
        self._row = np.dtype(
            [
                ("vectors", "<f4", (len(self.poolings), hidden)),
                ("input_tokens", "<u4"),
                ("rationale_tokens", "<u4"),
                ("stood_in", "<u4"),  # bit i: pooling i had no token, the mean stands in
                ("check", "<u4"),  # of the bytes before it
                ("ids_from", "<u8"),
            ]
        )
        self._check()
        self._files: list[Path] = []  # stems of the writers' files
        self._keys = np.zeros(0, _KEY)  # sorted
        self._places = np.zeros((0, 2), np.int64)  # (file, row) of each
        self._added: dict[bytes, tuple[int, int]] = {}  # by this process, not yet among the sorted
        self._stack = ExitStack()
        self._own: tuple[BinaryIO, BinaryIO, BinaryIO] | None = None
        self._pending: list[tuple[bytes, npt.NDArray[Any], bytes]] = []
        self._rows_written = self._ids_written = 0
        self._read_keys()

    def __len__(self) -> int:
        return len(self._keys) + len(self._added) + len(self._pending)

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(
        self,
        key: bytes,
        vectors: Floats,  # (P, H)
        *,
        input_tokens: int,
        rationale_ids: Sequence[int],
        stood_in: int = 0,
    ) -> None:
        """Keep a text's vectors; they are on disk after the next `flush`."""
        row = np.zeros((), self._row)
        row["vectors"], row["input_tokens"], row["stood_in"] = vectors, input_tokens, stood_in
        row["rationale_tokens"] = len(rationale_ids)
        self._pending.append((key, row, np.asarray(rationale_ids, "<u4").tobytes()))
        if len(self._pending) >= _BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Write what was added."""
        if not self._pending:
            return
        ids_file, rows_file, keys_file = self._own or self._open()
        rows = np.stack([row for _, row, _ in self._pending])
        lengths = np.array([len(ids) // 4 for _, _, ids in self._pending])
        rows["ids_from"] = self._ids_written + np.cumsum([0, *lengths[:-1]])
        rows["check"] = [_checksum(row) for row in rows]
        for file, content in (
            (ids_file, b"".join(ids for _, _, ids in self._pending)),
            (rows_file, rows.tobytes()),
            (keys_file, b"".join(key for key, _, _ in self._pending)),
        ):
            file.write(content)
            file.flush()
        own = len(self._files) - 1
        for offset, (key, _, _) in enumerate(self._pending):
            self._added[key] = (own, self._rows_written + offset)
        self._rows_written += len(rows)
        self._ids_written += int(lengths.sum())
        self._pending.clear()
        if len(self._added) > 200_000:
            self._sort_in()

    def find(self, keys: Sequence[bytes]) -> npt.NDArray[np.int64]:
        """(N, 2) places of keys, for `vectors` and `rationale_ids`; -1 where a key is not here yet."""
        wanted = np.array(keys, _KEY)
        places = np.full((len(wanted), 2), -1, np.int64)
        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
            here = self._keys[at] == wanted
            places[here] = self._places[at[here]]
        if self._added:
            for i, key in enumerate(keys):
                if key in self._added:
                    places[i] = self._added[key]
        return places

    def vectors(self, places: npt.NDArray[np.int64], pooling: Pooling, out: Floats) -> None:
        """Read the vectors at (N, 2) places into `out` (N, H), in pieces.

        Raises:
            DamagedShelf: a row does not pass its checksum.
            ValueError: a place is -1.
        """
        which = self.poolings.index(pooling)
        for start in range(0, len(places), _GATHERED):
            piece = places[start : start + _GATHERED]
            out[start : start + len(piece)] = self._gather(piece)["vectors"][:, which]

    def counts(self, places: npt.NDArray[np.int64]) -> tuple[Ints, Ints, Ints]:
        """(N,) input tokens, rationale tokens, and which poolings had none of their own, of texts at places."""
        rows = [self._gather(places[i : i + _GATHERED]) for i in range(0, len(places), _GATHERED)]
        all_rows = np.concatenate(rows) if rows else np.zeros(0, self._row)
        columns = ("input_tokens", "rationale_tokens", "stood_in")
        a, b, c = (all_rows[name].astype(np.int64) for name in columns)
        return a, b, c

    def rationale_ids(self, place: npt.NDArray[np.int64]) -> list[int]:
        """The token ids of the rationale at one place, the stop token not among them."""
        row = self._gather(place[None])[0]
        file = self._files[int(place[0])].with_suffix(".ids")
        ids = np.fromfile(file, "<u4", count=int(row["rationale_tokens"]), offset=4 * int(row["ids_from"]))
        return [int(i) for i in ids]

    def close(self) -> None:
        """Write what is left and close the files."""
        self.flush()
        self._stack.close()
        self._own = None

    def _gather(self, places: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if (places < 0).any():  # as an index it would be somebody else's row
            raise ValueError("a text is not on the shelf: was it left to another shard?")
        rows = np.zeros(len(places), self._row)
        for file in np.unique(places[:, 0]):
            here = np.flatnonzero(places[:, 0] == file)
            path = self._files[int(file)].with_suffix(".rows")
            stored = np.memmap(path, self._row, mode="r", shape=(path.stat().st_size // self._row.itemsize,))
            order = here[np.argsort(places[here, 1])]  # a disk is read forwards
            rows[order] = stored[places[order, 1]]
        for row, place in zip(rows, places, strict=True):
            if row["check"] != _checksum(row):
                raise DamagedShelf(f"{self._files[int(place[0])]}.rows: row {place[1]} is damaged; delete these files")
        return rows

    @property
    def _description(self) -> dict[str, Any]:
        return {"format": FORMAT, "poolings": list(self.poolings), "hidden": self.hidden}

    def _check(self) -> None:
        path = self.folder / "shelf.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != self._description:
            raise DamagedShelf(f"{path} describes another shelf than {self._description}")

    def _describe(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".{uuid.uuid4().hex}.partial"
        partial.write_text(json.dumps(self._description) + "\n", encoding="utf-8")
        partial.replace(self.folder / "shelf.json")

    def _read_keys(self) -> None:
        keys, places = [], []
        for path in sorted(self.folder.glob("*.keys")):
            rows = path.with_suffix(".rows")
            whole = rows.stat().st_size // self._row.itemsize if rows.exists() else 0
            found = np.fromfile(path, np.uint8)
            found = found[: min(len(found) // 16, whole) * 16].view(_KEY)
            places.append(np.stack([np.full(len(found), len(self._files)), np.arange(len(found))], axis=1))
            keys.append(found)
            self._files.append(path.with_suffix(""))
        if keys:
            self._keys, self._places = np.concatenate(keys), np.concatenate(places)
            self._sort()

    def _sort_in(self) -> None:
        self._keys = np.concatenate([self._keys, np.array(list(self._added), _KEY)])
        self._places = np.concatenate([self._places, np.array(list(self._added.values()), np.int64)])
        self._added.clear()
        self._sort()

    def _sort(self) -> None:
        order = np.argsort(self._keys, kind="stable")
        self._keys, self._places = self._keys[order], self._places[order]

    def _open(self) -> tuple[BinaryIO, BinaryIO, BinaryIO]:
        self._describe()  # not before: who only looks leaves nothing behind
        stem = self.folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        ids, rows, keys = (
            self._stack.enter_context(stem.with_suffix(suffix).open("xb")) for suffix in (".ids", ".rows", ".keys")
        )
        self._own = (ids, rows, keys)
        self._files.append(stem)
        return self._own


def _checksum(row: Any) -> int:
    return zlib.crc32(row.tobytes()[:-12])
