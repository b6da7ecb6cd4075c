"""Standard output and error on a full disk or into a pipe that nobody reads: what cannot be written is lost.

Python makes more of it. Each line raises; a progress bar ends with its lock held, and the next one waits for ever; and
what is left in the buffer at the end makes any exit code 120.
"""

from __future__ import annotations

import io
import sys
from contextlib import suppress
from typing import Any


class _Lossy(io.FileIO):
    """A file on which writing never fails."""

    def write(self, data: Any) -> int:
        written = None
        with suppress(OSError):
            written = super().write(data)  # None where it would have to wait: the other end set it so
        return memoryview(data).nbytes if written is None else written


def lose_what_cannot_be_written() -> None:
    """Put such streams in the place of the interpreter's own, for this process and what it forks.

    Streams that somebody else has put there (a notebook, a test) are left alone.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        with suppress(OSError, ValueError):  # full, or closed
            stream.flush()
        lossy = io.TextIOWrapper(
            io.BufferedWriter(_Lossy(stream.fileno(), "wb", closefd=False)),
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering or stream.write_through,
        )
        setattr(sys, name, lossy)
