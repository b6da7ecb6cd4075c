"""A server as its users start it: `grace-serve`, the bundled model, vLLM. One for both clients."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

_PATIENCE_S = 240  # for a busy machine; on an idle one the engine is there in a quarter of a minute


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, once it is ready."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    folder = tmp_path_factory.mktemp("real")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRACE_")}
    command = [str(Path(sys.executable).parent / "grace-serve"), "--port", "0", "--data-dir", str(folder / "data")]
    log = folder / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            announced = process.stdout.readline()
            assert " at " in announced, log.read_text()[-2000:]
            url = announced.split(" at ")[1].strip()
            deadline = time.monotonic() + _PATIENCE_S
            while httpx.get(f"{url}/readyz").status_code != 200:
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait()
