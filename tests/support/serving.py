"""`grace-serve` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

PATIENCE_S = 600  # for vLLM on a machine that has ten other things to do; on an idle one it takes a quarter of a minute


@contextmanager
def serving(log: Path, flags: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """The service's address, once it is ready; at the end it is stopped. None of its settings comes from outside.

    Args:
        log: Where its standard error goes; the end of it is in the message of what fails.
        flags: Of the command.
        variables: What its environment has besides ours, or instead.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRACE_")}
    command = [str(Path(sys.executable).parent / "grace-serve"), *flags]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, env=environment | dict(variables or {}), stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            announced = process.stdout.readline()
            assert " at " in announced, log.read_text()[-2000:]
            url = announced.split(" at ")[1].strip()
            deadline = time.monotonic() + PATIENCE_S
            while httpx.get(f"{url}/readyz").status_code != 200:
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait()
