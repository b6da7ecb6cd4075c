"""Every example of the pages on the client runs as it is written, against the real application."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from grace_client import GraceClient
from tests.clients.python.house import House

ROOT = Path(__file__).parents[3]
PAGES = {"docs": ROOT / "docs" / "clients.md", "readme": ROOT / "clients" / "python" / "README.md"}
EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [(name, i, code) for name, path in PAGES.items() for i, code in enumerate(EXAMPLE.findall(path.read_text()))]


@pytest.fixture(scope="module")
def filled(listening: House) -> House:
    with GraceClient(listening.url) as client:
        client.indexes.create("papers")
        texts = {"1": "The river rises in the hills.", "2": "A guild of masons built the bridge in 1432."}
        client.documents.upsert("papers", [{"id": i, "text": t, "metadata": {"year": 1432}} for i, t in texts.items()])
    return listening


@pytest.mark.parametrize(
    ("page", "number", "code"), EXAMPLES, ids=lambda x: "" if isinstance(x, str) and "\n" in x else str(x)
)
async def test_an_example_runs(filled: House, page: str, number: int, code: str, tmp_path: Path) -> None:
    assert "http://localhost:8000" in code, "an example says where the server is"
    code = code.replace("http://localhost:8000", filled.url)
    names: dict[str, Any] = {"__name__": "example"}
    if re.search(r"^(await|async with|async for)\b", code, re.MULTILINE):
        code = "async def example():\n" + textwrap.indent(code, "    ")
        exec(compile(code, f"{page}[{number}]", "exec"), names)
        await names["example"]()
    else:
        await asyncio.to_thread(exec, compile(code, f"{page}[{number}]", "exec"), names)


def test_there_are_examples_and_they_are_short() -> None:
    assert len(EXAMPLES) >= 8
    for page, number, code in EXAMPLES:
        assert len(code.splitlines()) <= 16, (page, number)
