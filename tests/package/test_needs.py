"""What the packages import is what `pyproject.toml` declares: an install from a registry misses nothing.

The tests' own environment has every extra, so an import that no extra names would work here and nowhere else.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
OURS = {
    path.name: path for path in (ROOT / "core/grace", ROOT / "server/grace_server", ROOT / "training/grace_training")
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PROVIDERS = packages_distributions()
ENGINES = ("cpu", "gpu")
# What is run, a module or a folder of them, and the extras that docs/configuration.md says it is installed with.
EXTRAS = {
    "grace": ENGINES,
    "grace_server": (*ENGINES, "server", "qdrant", "ray", "tracing"),
    "grace_training.cli": (*ENGINES, "training"),
    "grace_training.evaluation": (*ENGINES, "eval"),
    "grace_training.tiny": (*ENGINES, "training", "eval"),
}


def declared(*extras: str) -> set[str]:
    """The distributions that an installation with these extras asks for by name."""
    lines = list(PROJECT["dependencies"])
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def source(module: str) -> Path | None:
    """The file of a module of ours; None for what is no module, such as a name in one."""
    top, *rest = module.split(".")
    path = OURS[top].joinpath(*rest)
    return next((file for file in (path / "__init__.py", path.with_suffix(".py")) if file.exists()), None)


def modules(name: str) -> Iterator[str]:
    """A module and all that are in its folder."""
    top, *rest = name.split(".")
    yield name
    for file in OURS[top].joinpath(*rest).rglob("*.py"):
        yield ".".join((top, *file.relative_to(OURS[top]).with_suffix("").parts)).removesuffix(".__init__")


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(tree: ast.AST, *, at_start: bool) -> Iterator[str]:
    """The modules, and names that may be modules, that a file imports; `at_start` leaves out what functions import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "relative imports are not followed"
            assert node.level == 0, "relative imports are not followed"
            yield from (node.module, *(f"{node.module}.{name.name}" for name in node.names))
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        elif not (at_start and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            yield from imported(node, at_start=at_start)


def needed(roots: Iterator[str], *, at_start: bool = False) -> dict[str, str]:
    """Whose packages of others these modules import, directly or by way of ours, and the module that does."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    left = [(root, root) for root in roots]
    while left:
        module, by = left.pop()
        top = module.partition(".")[0]
        if top not in OURS:
            if top not in sys.stdlib_module_names:
                found[top] = by
        elif module not in seen and (file := source(module)):
            seen.add(module)
            left += [(module.rpartition(".")[0], by)] if "." in module else []
            left += [(name, module) for name in imported(parsed(file), at_start=at_start)]
    return found


def undeclared(found: dict[str, str], names: set[str]) -> dict[str, str]:
    """Those that no declared distribution provides, and where they are imported."""
    return {top: by for top, by in found.items() if not names & {*map(canonicalize_name, PROVIDERS.get(top, [top]))}}


@pytest.mark.parametrize("part", EXTRAS)
def test_what_is_imported_is_declared(part: str) -> None:
    found = needed(modules(part))
    assert {"numpy", "transformers"} <= set(found), "the imports were not found"
    assert not undeclared(found, declared(*EXTRAS[part]))


@pytest.mark.parametrize("command", ["grace_server.cli", "grace_server.index.cli"])
def test_the_service_starts_with_its_own_extra_alone(command: str) -> None:
    found = needed(iter([command]), at_start=True)
    assert "faiss" in found
    assert not undeclared(found, declared("server"))


def test_what_only_another_package_brings_is_found() -> None:
    found = needed(modules("grace_server"))
    assert undeclared(found, declared(*EXTRAS["grace_server"]) - {"starlette"}) == {"starlette": found["starlette"]}
