"""How many tests of somebody else's suite a file of ours runs: the page says so, and is held to it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_PAGE = Path(__file__).parents[3] / "docs" / "clients.md"


def inherited(request: pytest.FixtureRequest, package: str) -> int:
    """Tests of this file's classes that are written in `package`, whichever were selected for this run."""
    module = request.node.getparent(pytest.Module)
    classes = [node for node in module.collect() if isinstance(node, pytest.Class)]
    functions = [node for found in classes for node in found.collect() if isinstance(node, pytest.Function)]
    return sum(function.function.__module__.startswith(package) for function in functions)


def said(sentence: str) -> bool:
    """Whether the page says it, wherever its lines break."""
    return sentence in re.sub(r"\s+", " ", _PAGE.read_text(encoding="utf-8"))
