"""Every snippet of the page on switching runs: what stood there before as well as what stands there after."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cohere
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

from grace.prompt import Prompter
from tests.clients.python.house import House, running

PAGE = Path(__file__).parents[3] / "docs" / "switching.md"
SNIPPETS = re.findall(r'^```python title="(before|after)"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL)
ALIASES = "grace-tiny,text-embedding-3-small,embed-v4.0"


@pytest.fixture(scope="module")
def served(prompter: Prompter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("served"), prompter, listening=True, model_aliases=ALIASES) as house:
        yield house


@pytest.fixture(scope="module")
def other_model(prompter: Prompter, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that sentence-transformers loads."""
    word = modules.Transformer(str(prompter.checkpoint.folder))
    folder = str(tmp_path_factory.mktemp("other"))
    SentenceTransformer(modules=[word, modules.Pooling(word.get_embedding_dimension())]).save(folder)
    return folder


@pytest.fixture
def switched(served: House, other_model: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Each of the addresses of the page, and where it is here; the environment says the rest."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{served.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("CO_API_KEY", "any")
    # CO_API_URL is read when the SDK is imported, which others have done already.
    monkeypatch.setitem(cohere.ClientV2.__init__.__kwdefaults__, "base_url", served.url)
    return {
        "http://localhost:8000": served.url,
        "http://localhost:8080": f"{served.url}/tei",
        "sentence-transformers/all-MiniLM-L6-v2": other_model,
    }


@pytest.mark.parametrize(("when", "code"), SNIPPETS, ids=[f"{i}-{when}" for i, (when, _) in enumerate(SNIPPETS)])
async def test_a_snippet_runs(served: House, switched: dict[str, str], when: str, code: str) -> None:
    assert ("http://localhost:8000" in code) == (when == "after")
    for written, here in switched.items():
        code = code.replace(written, here)
    names: dict[str, Any] = {"__name__": "snippet"}
    await asyncio.to_thread(exec, compile(code, str(PAGE), "exec"), names)
    vectors = np.asarray(names["vectors"])
    assert vectors.ndim == 2
    assert vectors.shape[1] == served.app.state.checkpoint.hidden_size
    if when == "after":
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_page_says_before_and_after_of_all_four() -> None:
    assert [when for when, _ in SNIPPETS].count("before") == 4
    assert len(SNIPPETS) == PAGE.read_text().count("```python")


def test_before_and_after_are_the_same_vectors(served: House, switched: dict[str, str]) -> None:
    """Where only the address changes, the old program meets the new model."""
    results: dict[str, list[Any]] = {"before": [], "after": []}
    for when, code in SNIPPETS:
        if "extra_body" in code or not re.search("openai|cohere|huggingface_hub", code):
            continue
        for written, here in switched.items():
            code = code.replace(written, here)
        names: dict[str, Any] = {}
        exec(compile(code, str(PAGE), "exec"), names)
        results[when].append(np.float32(names["vectors"]))
    assert len(results["before"]) == 3
    for before, after in zip(results["before"], results["after"], strict=True):
        np.testing.assert_allclose(before, after, atol=1e-7)
