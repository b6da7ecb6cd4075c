"""What is published: wheels and source distributions that install and work without the repository around them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDS = {"grace_embed": ROOT, "grace_client": ROOT / "clients/python"}
MODULES = {"grace_embed": "grace", "grace_client": "grace_client"}
# What is done with each once it is installed; it prints where it was imported from.
WORKS = {
    "grace_embed": """
import json, grace, grace_server.app, grace_server.playground, grace_training.recipe
from grace import Checkpoint, Grace
with Grace.load(engine="transformers") as loaded:
    [answer] = loaded.represent(["The river rises in the hills."])
    vector = answer.vector(loaded.checkpoint.config.pooling)
    assert vector.shape == (Checkpoint.load().hidden_size,), vector.shape
    assert abs(vector @ vector - 1) < 1e-5
    assert answer.rationale.understanding
print(json.dumps([grace.__file__, grace_server.__file__, grace_training.__file__]))
""",
    "grace_client": """
import json, httpx, grace_client
def answer(request):
    item = dict(index=0, embedding="AACAPwAAAAA=", rationale=None, consistency=None)
    item |= dict(input_tokens=1, truncated=False, cached=False)
    usage = dict(prompt_tokens=1, completion_tokens=0, total_tokens=1)
    return httpx.Response(200, json=dict(model="m", fingerprint="f", data=[item], usage=usage))
with grace_client.GraceClient("http://grace", transport=httpx.MockTransport(answer)) as client:
    assert client.embed("x")[0].numbers == [1.0, 0.0]
print(json.dumps([grace_client.__file__]))
""",
}


def run(*command: str, cwd: Path, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=300, env=environment | variables)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module", params=BUILDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a distribution, and the folder with its wheel and its source."""
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), cwd=BUILDS[request.param])
    return request.param, folder


@pytest.fixture(scope="module", params=["wheel", "source"])
def installed(
    built: tuple[str, Path], request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The name of a distribution, and an environment of its own that it was installed into.

    What it needs comes from ours, by a `.pth` file. Such files are not read in the folders that one names: what is
    linked into our environment, our own packages, is not there.
    """
    name, folder = built
    [archive] = folder.glob("*.whl" if request.param == "wheel" else "*.tar.gz")
    environment = tmp_path_factory.mktemp(f"{name}-{request.param}")
    run(sys.executable, "-m", "venv", "--without-pip", str(environment), cwd=folder)
    python = str(environment / "bin/python")
    [theirs] = environment.glob("lib/python*/site-packages")
    (theirs / "needs.pth").write_text("\n".join(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    hidden = f"import importlib.util; assert not importlib.util.find_spec({MODULES[name]!r}), 'the linked one is seen'"
    run(python, "-c", hidden, cwd=folder)
    # The metadata of what is linked can be seen: pip must not take it for installed, nor take it away.
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, str(archive), cwd=folder)
    return name, environment


def test_what_is_installed_works_away_from_the_repository(installed: tuple[str, Path], tmp_path: Path):
    name, environment = installed
    for file in json.loads(run(str(environment / "bin/python"), "-c", WORKS[name], cwd=tmp_path)):
        assert Path(file).is_relative_to(environment), "what ran is not what was installed"


def test_every_command_that_is_promised_is_there(installed: tuple[str, Path], tmp_path: Path):
    name, environment = installed
    promised = {
        "grace_embed": {"grace-serve", "grace-index", "grace-train", "grace-eval"},
        "grace_client": {"grace-mcp"},
    }
    commands = tomllib.loads((BUILDS[name] / "pyproject.toml").read_text())["project"]["scripts"]
    assert promised[name] <= set(commands)
    for command in commands:
        script = environment / "bin" / command
        assert script.read_text().startswith(f"#!{environment}"), "it is run by another environment's Python"
        assert command in run(str(script), "--help", cwd=tmp_path)


def test_the_source_builds_the_same_wheel(built: tuple[str, Path], tmp_path: Path):
    _, folder = built
    [source] = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again"), cwd=unpacked)
    [first], [second] = folder.glob("*.whl"), (tmp_path / "again").glob("*.whl")
    contents = [sorted((i.filename, i.CRC) for i in zipfile.ZipFile(wheel).infolist()) for wheel in (first, second)]
    assert contents[0] == contents[1]


def test_both_bring_the_licence(built: tuple[str, Path]):
    name, folder = built
    licence = (ROOT / "LICENSE").read_bytes()
    [wheel], [source] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        [inside] = [file for file in archive.namelist() if file.endswith(".dist-info/licenses/LICENSE")]
        assert archive.read(inside) == licence
        [metadata] = [file for file in archive.namelist() if file.endswith(".dist-info/METADATA")]
        assert "\nLicense-File: LICENSE\n" in archive.read(metadata).decode()
    with tarfile.open(source) as archive:
        files = {member.name.partition("/")[2]: member for member in archive if member.isfile()}
        held = archive.extractfile(files["LICENSE"])
        assert held is not None
        assert held.read() == licence
        if name == "grace_embed":
            assert "THIRD-PARTY.md" in files


def test_both_clients_have_the_same_licence():
    for client in ("python", "typescript"):
        assert (ROOT / "clients" / client / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
