"""The TypeScript client: compiled, its types made from this application's OpenAPI document, its tests run by node
against a real server process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grace_server.app import create_app
from grace_server.settings import Settings
from tests.support import typescript
from tests.support.models import make_model
from tests.support.typescript import SOURCE, run

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled, and its tests with it."""
    folder = typescript.build(tmp_path_factory.mktemp("typescript") / "client")
    run("npm", "run", "check", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    command = [
        sys.executable,
        "-m",
        "tests.e2e.served",
        str(make_model(folder / "tiny", "qwen2")),
        str(folder / "data"),
    ]
    log = (folder / "log").open("w+")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "log").read_text()[-2000:]
            yield json.loads(line)["quick"]
        finally:
            process.kill()


def test_its_types_are_those_of_the_server(built: Path):
    document = json.dumps(create_app(Settings(model="none")).openapi())
    run("node", "scripts/schema.mjs", "made.ts", cwd=built, stdin=document)
    made, committed = (built / "made.ts").read_text(), (SOURCE / "src/schema.ts").read_text()
    assert made == committed, "run `make generate`: the server's answers have changed"


def test_what_it_promises_holds_against_a_server(built: Path, address: str):
    told = run("node", "--test", "--test-timeout=60000", "test-dist/test/", cwd=built, GRACE_URL=address)
    assert "# fail 0" in told
    assert "# skipped 0" in told


def test_its_package_holds_what_runs_and_nothing_else(built: Path):
    [packed] = json.loads(run("npm", "pack", "--json", cwd=built))
    names = {entry["path"] for entry in packed["files"]}
    assert {"dist/index.js", "dist/index.d.ts", "README.md", "LICENSE", "package.json"} <= names
    assert not [name for name in names if name.startswith(("test", "node_modules", "scripts"))]
    told = json.loads((built / "package.json").read_text())
    assert "dependencies" not in told
    user = built.parent / "user"
    user.mkdir()
    (user / "package.json").write_text('{"type": "module"}')
    run("npm", "install", "--offline", "--no-audit", "--no-fund", str(built / packed["filename"]), cwd=user)
    code = "import { decode, GraceClient } from 'grace-client'; console.log(decode('AACAPw==')[0], typeof GraceClient)"
    assert run("node", "--input-type=module", "-e", code, cwd=user).split() == ["1", "function"]


# What the README's example has made is what it says.
CHECK = """
const plain = await (await fetch("http://127.0.0.1:8000/embed", {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ input: "Iron rusts in wet air." }),
})).json();
console.log(JSON.stringify({
  off: Math.max(...plain.data[0].embedding.map((x, i) => Math.abs(Math.fround(x) - data[1].embedding[i]))),
  streamed: stream.result.data[0].rationale.text.length,
  hits: hits.map((hit) => ({ id: hit.id, parts: hit.explanation.pairs.length })),
}));
"""


def test_its_readme_runs_as_written_in_front_of_the_engine(built: Path, real_server: str, tmp_path: Path):
    [example] = re.findall(r"^```ts\n(.*?)^```$", (SOURCE / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules/grace-client").symlink_to(built)
    (tmp_path / "readme.mjs").write_text((example + CHECK).replace("http://127.0.0.1:8000", real_server))
    told = run("node", "readme.mjs", cwd=tmp_path).splitlines()
    last = json.loads(told[-1])
    assert last["off"] == 0, "base64 holds the numbers that the wire shows"
    assert len("\n".join(told[:-1])) >= last["streamed"] > 0
    assert [hit["id"] for hit in last["hits"]] == ["1"]
    assert last["hits"][0]["parts"] > 0
