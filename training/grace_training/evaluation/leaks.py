"""Texts of a task that a checkpoint was trained on.

Two ways to know: the training files are given, then texts are compared; or the checkpoint's card names data that the
task is made from, then that is said, and no more.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from grace_training.data import rows, text_key
from grace_training.errors import BadData
from grace_training.evaluation.results import Leak

_FEWEST_WORDS = 3  # shorter values of a row are labels and names, which many sets share
_KINDS = ("classification", "clustering", "retrieval", "reranking", "p2p", "s2s", "summarization", "hardnegatives")


class TrainingTexts:
    """Hashes of the texts in training files, by file.

    Raises:
        BadData: a file is not there, or there is nothing in it to compare.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._keys = {name: _keys_of(file) for name, file in _named(files).items()}
        self.fingerprint = _fingerprint(self._keys)  # the same files come to the same leaks

    def leaks(self, task_keys: npt.NDArray[np.uint64]) -> tuple[Leak, ...]:
        """Files that share texts with a task, given the sorted hashes of the task's."""
        shared = {name: len(np.intersect1d(keys, task_keys)) for name, keys in self._keys.items()}
        return tuple(Leak(name, count, len(task_keys)) for name, count in shared.items() if count)


def named_leaks(task: str, sources: Mapping[str, str], card: Mapping[str, str], *, texts: int) -> tuple[Leak, ...]:
    """Data of a card that the task is made from: by its SHA-256, by its file name, or by the task's name in it.

    `sources` are the files that a task of ours is made from, and their SHA-256; mteb's tasks have a name alone. Cards
    that give the SHA-256 of files are those of `make tiny`. A card of `grace-train` has a hash of the rows it read,
    which depends on their order and on what was skipped: no file has it, and the name has to do.
    """
    marks = {digest for digest in sources.values() if digest}
    names = {_plain(source) for source in sources}
    stem = _plain(task)
    for kind in _KINDS:
        stem = stem.replace(kind, "")
    found = []
    for source, fingerprint in card.items():
        plain = _plain(source)
        by_name = any(name in plain for name in names) or (not sources and len(stem) > 3 and stem in plain)
        if fingerprint in marks or by_name:
            found.append(Leak(source, None, texts))
    return tuple(found)


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, as suites and the card of `make tiny` give it."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _named(files: Sequence[Path]) -> dict[str, Path]:
    """Files by folder and name, or by as much more of their paths as tells them apart."""
    expanded = [file.expanduser() for file in files]
    whole = list(dict.fromkeys(file.absolute() if file.exists() else file for file in expanded))  # or a hub's name
    named = {}
    for file in whole:
        others = [other.parts for other in whole if other != file]
        most = len(file.parts)
        fits = (n for n in range(2, most) if all(parts[-n:] != file.parts[-n:] for parts in others))
        named["/".join(file.parts[-next(fits, most) :])] = file
    return named


def _fingerprint(keys: Mapping[str, npt.NDArray[np.uint64]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(keys):
        digest.update(f"{name}\n{len(keys[name])}\n".encode("utf-8", "replace"))
        digest.update(keys[name].tobytes())
    return digest.hexdigest()


def _keys_of(file: Path) -> npt.NDArray[np.uint64]:
    """The sorted hashes of a file's texts. Training can skip a row that cannot be read; here it is skipped aloud."""
    bad: list[BadData] = []

    def texts() -> Iterator[str]:
        for _, row in rows(str(file)):
            if isinstance(row, BadData):
                bad.append(row)
            else:
                yield from _texts(row)

    keys = np.unique(np.fromiter(map(text_key, texts()), np.uint64))
    if not len(keys):
        raise BadData(f"{file}: no text in it to compare" + (f"; the first bad row: {bad[0]}" if bad else ""))
    if bad:
        print(f"grace-eval: {file}: bad rows are not compared: {len(bad)}, the first: {bad[0]}", file=sys.stderr)
    return keys


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str() if len(value.split()) >= _FEWEST_WORDS:
            yield value
        case dict():
            for inner in value.values():
                yield from _texts(inner)
        case list():
            for inner in value:
                yield from _texts(inner)
        case _:
            return


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"\.(jsonl|json|csv|txt|parquet|tsv|gz|xz)\b", "", name.lower()))
