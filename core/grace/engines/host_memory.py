"""Memory of a process that computes on a CPU."""

from __future__ import annotations

import ctypes


def give_back() -> bool:
    """Return to the system what malloc keeps and nobody uses; false where it is not glibc's.

    Buffers of steps come in all sizes, and whatever lies above a hole keeps it: without this an engine's process grows
    by tens of MiB whenever a step is larger than all before it, and keeps them. Takes milliseconds.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:
        return False
    trim(0)
    return True
