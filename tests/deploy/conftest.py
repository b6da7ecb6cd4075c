"""What the tests of deploy/ share: a real service around the fake engine, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.models import make_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GRACE_") and not name.startswith("GRACE_TEST")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def live_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with a tiny random model, run by its own command line."""
    folder = tmp_path_factory.mktemp("service")
    model = make_model(folder / "tiny", "qwen2")
    settings = {
        "model": model,
        "data-dir": folder / "data",
        "port": 0,
        "engine": "transformers",
        "max-inputs": 16,
        "max-running-requests": 1,
        "max-queued-requests": 300,
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRACE_")}
    command = [str(Path(sys.executable).parent / "grace-serve"), *flags]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            announced = process.stdout.readline()
            assert " at " in announced, (folder / "log").read_text()
            url = announced.split(" at ")[1].strip()
            deadline = time.monotonic() + 30
            while httpx.get(f"{url}/readyz").status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait()
