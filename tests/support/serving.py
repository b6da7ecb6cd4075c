"""`grace-serve` in a process of its own, forked from one that has imported it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.support.forked import forked_service


@dataclass
class Service:
    """One that runs, or has run; what it says is read from files."""

    process: BaseProcess
    out: Path
    log: Path

    def address(self, *, seconds: float = 180) -> str:
        """Where it answers, once it does."""
        deadline = time.monotonic() + seconds
        while " at http" not in (said := self.out.read_text() if self.out.exists() else ""):
            assert self.process.is_alive(), self._end_of_log()
            assert time.monotonic() < deadline, self._end_of_log()
            time.sleep(0.05)
        return said.split(" at ")[1].split()[0]

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def wait(self, *, seconds: float = 60) -> int:
        """Its exit code, once it has ended."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, self._end_of_log()
        return self.process.exitcode

    async def is_ready(self) -> str:
        return await asyncio.to_thread(self.address)

    async def ended(self) -> int:
        return await asyncio.to_thread(self.wait)

    def _end_of_log(self) -> str:
        return self.log.read_text()[-2000:] if self.log.is_file() else ""


@contextmanager
def started(
    log: Path, flags: Sequence[str] = (), variables: Mapping[str, str] | None = None, *, out: Path | None = None
) -> Iterator[Service]:
    """A service with these flags; at the end it is killed if it still runs.

    None of its settings comes from the environment of the tests.

    Args:
        log: Where its standard error goes; the end of it is in the message of what fails.
        flags: Of the command.
        variables: What its environment has besides ours, or instead.
        out: Where its standard output goes, if not beside the log.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRACE_")}
    out = out or log.with_suffix(".out")
    out.unlink(missing_ok=True)  # of an earlier one
    process = forked_service(flags, environment | dict(variables or {}), out=out, log=log)
    try:
        yield Service(process, out, log)
    finally:
        process.kill()
        process.join()


@contextmanager
def serving(log: Path, flags: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of such a service, which takes requests; at the end it is stopped."""
    with started(log, flags, variables) as service:
        yield service.address()
        service.send_signal(signal.SIGTERM)
        service.wait()
