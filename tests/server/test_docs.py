"""The pages under docs/ say what the code does."""

from __future__ import annotations

import argparse
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from grace_server import life, settings_table
from grace_server.errors import ApiError
from grace_server.index.cli import parser
from grace_server.index.routes.shapes import JobOut
from grace_server.metrics import Metrics
from tests.server.conftest import Serve

DOCS = Path(__file__).parents[2] / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_table_of_settings_is_the_tree() -> None:
    text = page("configuration.md")
    assert text == settings_table.renewed(text), "run: python -m grace_server.settings_table"


def test_every_metric_is_explained() -> None:
    text = page("operations.md")
    for family in Metrics().registry.collect():
        assert f"`{family.name}" in text, family.name


def test_every_exit_code_is_explained() -> None:
    text = page("operations.md")
    for name in vars(life):
        if name.startswith("EXIT_"):
            assert re.search(rf"^\| {getattr(life, name)} \|", text, re.MULTILINE), name


def test_every_field_of_a_job_is_explained() -> None:
    text = page("search.md")
    for name in JobOut.model_fields.keys() - {"object"}:
        assert f"`{name}`" in text, name


def test_every_option_of_grace_index_is_named() -> None:
    text = page("search.md")
    found = parser()
    [commands] = [action for action in found._actions if isinstance(action, argparse._SubParsersAction)]
    parts = [found, *(part for name, part in commands.choices.items() if name != "audit")]
    options = {option for part in parts for action in part._actions for option in action.option_strings}
    for option in options - {"-h", "--help"}:
        assert f"`{option}`" in text, option


def test_every_error_code_is_explained() -> None:
    text = page("api.md")
    import_module("grace_server.index.errors")
    if find_spec("ray"):
        import_module("grace_server.replicas.engine")

    def rows(kind: type[ApiError]) -> set[tuple[int, str, str]]:
        found = {(kind.status, kind.type, kind.code)} if kind.__module__.startswith("grace_server.") else set()
        return found.union(*(rows(sub) for sub in kind.__subclasses__()))

    wanted = rows(ApiError) - {(499, "client_error", "client_closed_request")}
    for status, kind, code in wanted:
        assert re.search(rf"^\| {status} \| `{kind}` \| `{code}`", text, re.MULTILINE), (status, kind, code)


async def test_every_route_is_explained(serve: Serve) -> None:
    text = page("api.md")
    for path in (await serve()).app.openapi()["paths"]:
        if not path.startswith(("/indexes", "/jobs", "/aliases", "/search", "/explain")):
            assert f"{path.split('{')[0]}" in text, path
