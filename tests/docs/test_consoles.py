"""The consoles of the pages happen: their commands, in a page's order and copied as they are, print what is shown."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from grace_server.settings import Settings
from tests.docs.pages import blocks, commands, differs, page
from tests.support.serving import serving

PAGES = ("search", "explanations", "scale")
# What is started on these shows nothing of its engine, and search's is vLLM, which takes half a minute to start.
ELSEWHERE = {"explanations", "scale"}
# `grace-serve` as a command of a console, with the variables before it.
STARTS = re.compile(r"((?:[A-Z_]+=\S+ )+)grace-serve$")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
needs_shell = pytest.mark.skipif(
    None in [shutil.which(tool) for tool in ("bash", "curl", "jq")], reason="bash, curl and jq run the transcripts"
)


@pytest.fixture
def empty(served: str) -> Iterator[str]:
    """The address of the service, without the indexes that another page made."""
    _forget_indexes(served)
    yield served
    _forget_indexes(served)


def _forget_indexes(url: str) -> None:
    for found in httpx.get(f"{url}/indexes", timeout=60).json()["data"]:
        httpx.delete(f"{url}/indexes/{found['name']}", timeout=60).raise_for_status()


@needs_shell
@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_consoles_of_a_page_happen_in_its_order(
    name: str, empty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    monkeypatch.setenv("GRACE_DATA_DIR", str(tmp_path / "data"))
    if name in ELSEWHERE:
        monkeypatch.setenv("GRACE_ENGINE", "transformers")
        monkeypatch.setenv("GRACE_DTYPE", "float32")
    shown = [command for block in blocks(page(f"docs/{name}.md"), "console") for command in commands(block)]
    assert shown
    url = empty
    with ExitStack() as started:
        for command in shown:
            if starts := STARTS.match(command.line.strip()):
                variables = dict(pair.split("=", 1) for pair in starts[1].split())
                flags = ["--port", "0", "--data-dir", str(tmp_path / "served")]
                url = started.enter_context(serving(tmp_path / "log", flags, variables))
            else:
                assert not (wrong := differs(command.shown, command.output(url))), wrong


def test_what_a_page_lets_one_type_is_a_console() -> None:
    """So is an answer: it stands below what asked for it. A page's other fences hold no command that would run here."""
    for name in PAGES:
        for language, block in FENCE.findall(page(f"docs/{name}.md")):
            assert language in {"console", "bash", "promql"}, (name, block)
            assert language == "console" or not re.search(r"^(curl|python) ", block, re.MULTILINE), (name, block)


def test_the_file_of_settings_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [variable for variable in os.environ if variable.startswith("GRACE_")]:
        monkeypatch.delenv(variable)
    [shown] = blocks(page("docs/configuration.md"), "yaml")
    file = tmp_path / "grace.yaml"
    file.write_text(shown, encoding="utf-8")
    settings = Settings(config=file)
    assert settings.model == "Qwen/Qwen2.5-1.5B-Instruct"
    assert settings.model_fields_set >= set(re.findall(r"^(\w+):", shown, re.MULTILINE))
