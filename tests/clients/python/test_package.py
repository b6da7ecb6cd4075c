"""What `pip install grace-client` brings, and what it does without."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "clients" / "python"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_needs_httpx_and_pydantic_and_nothing_else() -> None:
    names = {requirement.split(">")[0] for requirement in PROJECT["dependencies"]}
    assert names == {"httpx", "pydantic"}
    code = """
import sys
import grace_client
heavy = {"numpy", "torch", "grace", "grace_server", "langchain_core", "haystack", "llama_index", "mcp", "transformers"}
print(*sorted(heavy & set(sys.modules)))
"""
    assert python(code).strip() == ""


def test_it_works_without_numpy_and_says_what_needs_it() -> None:
    code = """
import sys
sys.modules["numpy"] = None
import httpx
from grace_client import GraceClient
item = dict(index=0, embedding="AACAPwAAAAA=", rationale=None, consistency=None)
item |= dict(input_tokens=1, truncated=False, cached=False)
usage = dict(prompt_tokens=1, completion_tokens=0, total_tokens=1)
reply = httpx.Response(200, json=dict(model="m", fingerprint="f", data=[item], usage=usage))
client = GraceClient("http://grace", transport=httpx.MockTransport(lambda _: reply))
print(client.embed("x")[0].numbers)
for needs in (lambda: client.embed("x")[0].vector, lambda: client.encode("x")):
    try:
        needs()
    except ImportError as error:
        print(error)
"""
    first, *rest = python(code).splitlines()
    assert first == "[1.0, 0.0]"
    assert len(rest) == 2
    assert all("pip install './clients/python[numpy]'" in line for line in rest)


def test_the_command_for_agents_says_how_to_get_what_it_needs() -> None:
    code = """
import sys
sys.modules["mcp"] = None
from grace_client.mcp import cli
try:
    cli.main([])
except SystemExit as error:
    print(error)
"""
    assert "in a checkout: pip install './clients/python[mcp]'" in python(code)


def test_every_extra_is_a_module_that_says_which() -> None:
    for extra in PROJECT["optional-dependencies"].keys() - {"numpy"}:
        name = extra.replace("-", "_")
        found = FOLDER / "grace_client" / name / "__init__.py"
        source = found if found.exists() else FOLDER / "grace_client" / f"{name}.py"
        assert f"grace-client[{extra}]" in source.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_types(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(FOLDER)]
    subprocess.run([*build, "--wheel-dir", str(tmp_path)], check=True)
    [wheel] = tmp_path.glob("grace_client-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "grace_client/py.typed" in names
    assert "grace_client/_sync/client.py" in names
    assert not [name for name in names if not name.startswith(("grace_client/", "grace_client-"))]
