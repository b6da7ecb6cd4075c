"""The synchronous client is the asynchronous one in other words."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import pytest

from grace_client import AsyncGraceClient, GraceClient

PACKAGE = Path(__file__).parents[3] / "clients" / "python"


@pytest.fixture(scope="module")
def unasync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unasync", PACKAGE / "scripts" / "unasync.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_committed_is_what_would_be_made(unasync: ModuleType) -> None:
    assert unasync.outdated() == [], "run: make generate"


def test_a_change_of_one_twin_alone_is_noticed(
    unasync: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for side in ("_async", "_sync"):
        (tmp_path / side).mkdir()
    (tmp_path / "_async" / "a.py").write_text("async def ask() -> int:\n    return await other()\n")
    (tmp_path / "_sync" / "left_over.py").write_text("x = 1\n")
    monkeypatch.setattr(unasync, "PACKAGE", tmp_path)
    assert unasync.outdated() == ["a.py", "left_over.py"]
    assert unasync.main() == 0
    assert unasync.outdated() == []
    assert (tmp_path / "_sync" / "a.py").read_text().endswith("def ask() -> int:\n    return other()\n")


def test_no_word_of_waiting_is_left() -> None:
    for path in (PACKAGE / "grace_client" / "_sync").glob("*.py"):
        if path.name == "__init__.py":
            continue
        code = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert not any(word in line for line in code for word in ("await", "async", "Async")), path.name


def test_both_have_the_same_methods_with_the_same_parameters() -> None:
    a, b = AsyncGraceClient("http://grace"), GraceClient("http://grace")
    for part in ("", "indexes", "documents", "jobs"):
        one, other = (getattr(client, part) if part else client for client in (a, b))
        names = {name for name in dir(one) if not name.startswith("_")} - {"aclose"}
        assert names == {name for name in dir(other) if not name.startswith("_")} - {"close"}
        for name in names:
            if inspect.isroutine(getattr(one, name)):
                parameters = [list(inspect.signature(getattr(x, name)).parameters) for x in (one, other)]
                assert parameters[0] == parameters[1], name
