"""The Python client in front of the real engine: its README runs as written, and all it does is done once."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grace_client import AsyncGraceClient, GraceClient

README = Path(__file__).parents[3] / "clients" / "python" / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
TEXT = "The river rises in the hills. It meets the sea at a harbour."


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_the_readme_runs_as_written(real_server: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = code.replace("http://localhost:8000", real_server)
    names: dict[str, Any] = {"__name__": "example"}
    if "async with" in code:
        exec(compile("async def example():\n" + textwrap.indent(code, "    "), "README", "exec"), names)
        await names["example"]()
    else:
        await asyncio.to_thread(exec, compile(code, "README", "exec"), names)
    assert capsys.readouterr().out


def test_base64_holds_the_numbers_that_the_wire_shows(real_server: str) -> None:
    with GraceClient(real_server) as client:
        packed = client.embed(TEXT)[0]
        plain = client.http.request("POST", "/embed", body={"input": TEXT}).json()["data"][0]
    assert packed.rationale.finish_reason in ("stop", "length")
    np.testing.assert_array_equal(packed.vector, np.float32(plain["embedding"]))


async def test_the_rationale_that_was_streamed_is_the_one_that_was_pooled(real_server: str) -> None:
    async with AsyncGraceClient(real_server) as client:
        pieces: list[str] = []
        async with client.embed_stream("A text that no other test embeds.", explain=True) as stream:
            async for piece in stream:
                pieces.append(piece)
        [item] = stream.result
    assert len(pieces) > 1
    assert "".join(pieces) == item.rationale.text
    assert sum(segment.share for segment in item.segments) == pytest.approx(1, abs=1e-5)


async def test_documents_are_uploaded_found_and_explained(real_server: str) -> None:
    texts = ["Bread is baked at night.", TEXT, "A guild of masons built the bridge in 1432."]
    async with AsyncGraceClient(real_server) as client:
        await client.indexes.create("engine")
        report = await client.documents.upload("engine", [{"id": str(i), "text": t} for i, t in enumerate(texts)])
        assert (report.written, list(report.failures)) == (3, [])
        found = await client.search(TEXT, index="engine", k=3, explain=True)
        assert {hit.id for hit in found.hits} == {"0", "1", "2"}
        for hit in found.hits:
            assert np.sum(hit.explanation.table) == pytest.approx(hit.score, abs=1e-4)
        comparison = await client.explain("Who built the bridge?", {"text": texts[2]})
        assert np.sum(comparison.table) == pytest.approx(comparison.score, abs=1e-5)
        await client.indexes.delete("engine")
