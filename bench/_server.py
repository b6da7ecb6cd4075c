"""A real `grace-serve` in a process of its own, for as long as a benchmark asks it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 600  # on a busy machine torch alone takes a minute to import


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server listens, its process, and when it was started and ready (seconds of `time.perf_counter`)."""

    port: int
    pid: int
    started: float
    ready: float

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            body: bytes = answer.read()
        return body

    def post(self, path: str, body: dict[str, Any], method: str = "POST") -> Any:
        request = urllib.request.Request(
            self.address + path, json.dumps(body).encode(), {"content-type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read() or b"null")

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric's series, of those with `label` in them; 0 if there is none."""
        lines = self.get("/metrics").decode().splitlines()
        found = (line for line in lines if line.partition("{")[0].partition(" ")[0] == name and label in line)
        return sum(float(line.rpartition(" ")[2]) for line in found)


@contextmanager
def served(**settings: object) -> Iterator[Server]:
    """`grace-serve` with these settings, on a data folder that is gone afterwards.

    Raises:
        RuntimeError: it did not start.
    """
    port = free_port()
    with tempfile.TemporaryDirectory() as data:
        chosen = {"port": port, "data_dir": data, "log_level": "warning", **settings}
        environment = {f"GRACE_{name.upper()}": str(value) for name, value in chosen.items()}
        with running([sys.executable, "-m", "grace_server.cli"], port, "/readyz", environment) as server:
            yield server


@contextmanager
def running(
    command: Sequence[str], port: int, ready_path: str, environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """Any HTTP server, from its start until it answers 200 on `ready_path`, and stopped afterwards."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env=os.environ | (environment or {}), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(process, f"http://127.0.0.1:{port}{ready_path}")
            yield Server(port, process.pid, started, time.perf_counter())
        except BaseException:
            log.seek(0)
            print(log.read().decode(errors="replace")[-4000:], file=sys.stderr)
            raise
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """One that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def bundled() -> Path:
    """The folder of the bundled model."""
    from grace.checkpoint import BUNDLED_NAME, Checkpoint

    return Checkpoint.load(BUNDLED_NAME).folder


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    end = time.perf_counter() + START_S
    while time.perf_counter() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.02)
    raise RuntimeError(f"the server was not ready after {START_S} s")
