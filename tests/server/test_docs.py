"""The pages under docs/ say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from grace_server import life, settings_table
from grace_server.errors import ApiError
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


def test_every_error_code_is_explained() -> None:
    text = page("api.md")

    def codes(kind: type[ApiError]) -> set[tuple[int, str]]:
        found = {(kind.status, kind.code)} if kind.__module__ == "grace_server.errors" else set()
        return found.union(*(codes(sub) for sub in kind.__subclasses__()))

    for status, code in codes(ApiError) - {(499, "client_closed_request")}:
        assert re.search(rf"^\| {status} \|.*`{code}`", text, re.MULTILINE), (status, code)


async def test_every_route_is_explained(serve: Serve) -> None:
    text = page("api.md")
    for path in (await serve()).app.openapi()["paths"]:
        if not path.startswith(("/indexes", "/jobs", "/aliases", "/search", "/explain")):
            assert f"{path.split('{')[0]}" in text, path
