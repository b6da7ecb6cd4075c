"""The TypeScript client, compiled as its `package.json` says."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "clients/typescript"


def run(*command: str, cwd: Path, stdin: str | None = None, **variables: str) -> str:
    """What a command prints; one that fails is an error with all it said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRACE_")}
    done = subprocess.run(
        command, cwd=cwd, input=stdin, text=True, capture_output=True, timeout=300, env=environment | variables
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def build(folder: Path) -> Path:
    """A copy of the package in `folder`, with its two build tools, compiled. Without node, npm or registry: skipped."""
    if None in [shutil.which(name) for name in ("node", "npm")]:
        pytest.skip("node and npm are not installed")
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules", "dist", "test-dist"))
    try:
        run("npm", "ci", "--no-audit", "--no-fund", cwd=folder)
    except AssertionError as error:
        pytest.skip(f"npm cannot fetch the compiler: {str(error).strip().splitlines()[-1]}")
    run("npm", "run", "build", cwd=folder)
    return folder
