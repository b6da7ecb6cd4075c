"""What malloc keeps goes back to the system when it is asked to."""

from __future__ import annotations

import platform

import psutil
import pytest

from grace.engines.host_memory import give_back

KIB, MIB = 2**10, 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another's")
def test_holes_below_what_is_in_use_are_given_back() -> None:
    process = psutil.Process()
    blocks = [bytearray(100 * KIB) for _ in range(3000)]  # each too small for a mapping of its own
    kept = blocks[::100]
    del blocks
    before = process.memory_info().rss
    assert give_back()
    assert before - process.memory_info().rss > 200 * MIB
    assert not any(map(any, kept))
