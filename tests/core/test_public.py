"""The front door shows what it says and nothing costs what it need not."""

from __future__ import annotations

import subprocess
import sys

import grace


def test_all_names_are_there_and_sorted() -> None:
    assert grace.__all__ == sorted(grace.__all__)
    assert all(hasattr(grace, name) for name in grace.__all__)


def test_importing_grace_brings_no_torch_and_no_engine() -> None:
    code = "import sys, grace; print(sorted({'torch', 'vllm', 'transformers', 'fastapi'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
