"""Running a program that a model wrote: in a process of its own, with limits, and cut off where the kernel allows it.

Always: a fresh interpreter without site packages, an empty environment, no input, no output, a temporary folder, its
own process group, limits on processor time, memory, file size and open files, and a deadline. Where the kernel grants
namespaces to this user, also: no network, every file read-only but those in its own folder, and no process left behind.
`general_sandbox_child.py` is the other side. It is protection against accidents and against most malice, not a virtual
machine: give code from a model nobody trusts a machine of its own.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from grace_training.errors import TrainingError

CHILD = Path(__file__).with_name("general_sandbox_child.py")
SELF_TEST = "import math, re, typing, collections, itertools, hashlib, copy\nassert math.gcd(12, 18) == 6\n"


class SandboxUnusable(TrainingError):
    """Programs that are right would fail here, so nothing can be measured."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program."""

    wall_s: float = 10.0
    cpu_s: int = 8
    memory_mib: int = 1024
    file_mib: int = 1
    open_files: int = 32


class Verdict(NamedTuple):
    """Whether a program ran to its end, why not, and whether it was cut off from network and files."""

    passed: bool
    reason: str  # "" when it passed
    isolated: bool


def run(program: str, limits: Limits | None = None) -> Verdict:
    """Run a program that raises when it is wrong.

    It has passed when its last line was reached: leaving early, even with exit status 0, is not enough.
    """
    limits = limits or Limits()
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="grace-sandbox-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(CHILD)],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        request = json.dumps({"program": program, "token": token, "folder": folder, **asdict(limits)})
        try:
            answer, _ = process.communicate(request.encode(), timeout=limits.wall_s)
            late = False
        except subprocess.TimeoutExpired as error:
            answer, late = error.stdout or b"", True
        finally:
            _kill_group(process)
    lines = answer.decode(errors="replace").splitlines()
    isolated = bool(lines) and lines[0] == f"{token} isolated"
    if late:
        return Verdict(False, f"over {limits.wall_s:g} s", isolated)
    if lines[1:] == [f"{token} passed"]:
        return Verdict(True, "", isolated)
    if len(lines) > 1 and lines[1].startswith(f"{token} "):
        return Verdict(False, lines[1].removeprefix(f"{token} ")[:200], isolated)
    return Verdict(False, _how_it_ended(process.returncode), isolated)


def check(limits: Limits | None = None) -> bool:
    """Prove that a right program passes and a wrong one does not; whether programs are isolated here.

    Raises:
        SandboxUnusable: they are not told apart on this machine.
    """
    right, wrong = run(SELF_TEST, limits), run(SELF_TEST + "assert False\n", limits)
    if not right.passed or wrong.passed:
        raise SandboxUnusable(f"the sandbox does not work here: a program that is right ends with {right.reason!r}")
    return right.isolated


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # Also after a good end: what it started in the background must not outlive it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _how_it_ended(status: int) -> str:
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return f"left with exit status {status} before its last line"
