"""`grace-serve` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(log: Path, flags: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """The service's address, which it prints once it takes requests; at the end it is stopped.

    None of its settings comes from the environment of the tests.

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
            yield announced.split(" at ")[1].strip()
        finally:
            process.terminate()
            process.wait()
