"""A Ray cluster on this machine, and engines for it whose speed does not depend on the machine's."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from grace.checkpoint import Checkpoint
from grace.engines.fake import FakeEngine
from grace.prompt import Prompter
from grace_server.settings import Settings
from tests.support.ports import free_port
from tests.support.processes import command_line

ROOT = Path(__file__).parents[2]
SECONDS = 0.5
PATIENCE_S = 240  # a worker of Ray is a Python with half the world imported: on a busy machine that takes its time


def paced(settings: Settings, checkpoint: Checkpoint, prompter: Prompter) -> FakeEngine:
    """An engine that sleeps through each text: `max_running_requests` at once, so many times 2 a second."""
    return FakeEngine(prompter, seconds_per_text=SECONDS)


@contextmanager
def cluster(cpus: int) -> Iterator[str]:
    """A cluster of our own, with Serve on a free port; the address of its proxy."""
    # Its processes inherit these. A runtime environment would say the same, and have every worker started twice.
    inherited = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # else it depends on whether this user has a token somewhere
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(PATIENCE_S),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    before = dict(os.environ)
    os.environ |= inherited
    import ray
    from ray import serve
    from ray.serve._private import api

    api.HTTP_PROXY_TIMEOUT = PATIENCE_S
    # Not under a test's own folder: sockets live there, whose paths may have 107 bytes.
    folder = tempfile.mkdtemp(prefix="ray")
    ray.init(
        num_cpus=cpus,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        _temp_dir=folder,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        yield f"http://127.0.0.1:{port}"
        serve.shutdown()
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        for name in inherited:
            os.environ.pop(name)
            if name in before:
                os.environ[name] = before[name]


def actors(title: str) -> list[psutil.Process]:
    """Processes with a title of Ray's that begins so, oldest first, in clusters that this process started."""
    ours = psutil.Process().children(recursive=True)
    return sorted((p for p in ours if command_line(p).startswith(f"ray::{title}")), key=lambda p: p.create_time())
