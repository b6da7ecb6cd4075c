"""What is published: wheels and source distributions that install and work without the repository around them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDS = {"grace_embed": ROOT, "grace_client": ROOT / "clients/python"}


def run(*command: str, cwd: Path, **variables: str) -> str:
    done = subprocess.run(command, cwd=cwd, text=True, capture_output=True, timeout=300, env=os.environ | variables)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope="module", params=BUILDS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The name of a distribution, and the folder with its wheel and its source."""
    folder = tmp_path_factory.mktemp(request.param)
    run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), cwd=BUILDS[request.param])
    return request.param, folder


def test_the_wheel_works_away_from_the_repository(built: tuple[str, Path], tmp_path: Path):
    name, folder = built
    [wheel] = folder.glob("*.whl")
    target = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel), cwd=tmp_path)
    code = {
        "grace_embed": "import json, grace, grace_server.app, grace_server.playground, grace_training.recipe;"
        "from grace.checkpoint import Checkpoint;"
        "print(json.dumps([grace.__file__, Checkpoint.load().fingerprint]))",
        "grace_client": "import json, grace_client; print(json.dumps([grace_client.__file__, 'x']))",
    }[name]
    where, told = json.loads(run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(target)))
    assert Path(where).is_relative_to(target)
    assert told


def test_the_source_builds_the_same_wheel(built: tuple[str, Path], tmp_path: Path):
    _, folder = built
    [source] = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again"), cwd=unpacked)
    [first], [second] = folder.glob("*.whl"), (tmp_path / "again").glob("*.whl")
    listing = "import sys, zipfile; print(sorted((i.filename, i.CRC) for i in zipfile.ZipFile(sys.argv[1]).infolist()))"
    names = [run(sys.executable, "-c", listing, str(wheel), cwd=tmp_path) for wheel in (first, second)]
    assert names[0] == names[1]


def test_every_command_that_is_promised_is_there():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {"grace-serve", "grace-index", "grace-train", "grace-eval"} <= set(scripts)
    for command in scripts:
        told = run(str(Path(sys.executable).parent / command), "--help", cwd=ROOT)
        assert command in told
