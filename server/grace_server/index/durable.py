"""Files that are either there whole or not at all, also after a crash.

write to a temporary name -> fsync -> rename -> fsync the folder
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from grace_server.index.faults import FaultPoint, Faults

TEMPORARY = ".tmp"


@dataclass(frozen=True, slots=True)
class Steps:
    """The fault points of one kind of file."""

    write: FaultPoint
    sync: FaultPoint
    rename: FaultPoint
    sync_folder: FaultPoint


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    bytes: int
    sha256: str


def write_durably(
    path: Path, produce: Callable[[Callable[[bytes], None]], None], *, steps: Steps, faults: Faults
) -> Written:
    """Let `produce` write the file's bytes, and make it appear under `path` in one step.

    Raises:
        OSError: the disk is full or fails; `path` is as it was, and nothing is left behind.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    digest, size = hashlib.sha256(), 0
    try:
        with temporary.open("wb") as file:

            def write(block: bytes) -> None:
                nonlocal size
                faults(steps.write)
                file.write(block)
                digest.update(block)
                size += len(block)

            produce(write)
            file.flush()
            faults(steps.sync)
            os.fsync(file.fileno())
        faults(steps.rename)
        temporary.replace(path)
        faults(steps.sync_folder)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Written(size, digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Of a file's contents, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bytes_in(folder: Path, pattern: str) -> int:
    """Size of a folder's files of some pattern. What goes while it is looked at takes no room, the folder included."""
    size = 0
    with suppress(FileNotFoundError):
        for file in folder.glob(pattern):
            with suppress(FileNotFoundError):
                size += file.stat().st_size
    return size
