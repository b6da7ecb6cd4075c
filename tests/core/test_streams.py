"""A stream that cannot be written promises to cost what was written to it, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from grace.streams import lose_what_cannot_be_written

PROGRAM = """
import sys
from tqdm import tqdm
from grace.streams import lose_what_cannot_be_written
lose_what_cannot_be_written()
lose_what_cannot_be_written()
for i in range(3):
    print("out", i, "ü" * 5000)
    print("err", i, "ü" * 5000, file=sys.stderr)
for _ in range(2):
    for _ in tqdm(range(3), disable="bars" not in sys.argv):
        pass
sys.exit(7)
"""
SAID = {name: "".join(f"{name} {i} {'ü' * 5000}\n" for i in range(3)) for name in ("out", "err")}


def run(*arguments: str, out: int, err: int) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-X", "utf8", "-c", PROGRAM, *arguments]
    return subprocess.run(program, stdout=out, stderr=err, encoding="utf-8", timeout=60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_on_a_full_disk_bars_and_lines_are_lost_and_the_exit_code_is_kept() -> None:
    with Path("/dev/full").open("w") as full:
        ended = run("bars", out=subprocess.PIPE, err=full.fileno())
        assert (ended.returncode, ended.stdout) == (7, SAID["out"])
        ended = run("bars", out=full.fileno(), err=subprocess.PIPE)
        assert ended.returncode == 7
        assert ended.stderr.startswith(SAID["err"])


def test_without_a_reader_lines_are_lost_and_the_exit_code_is_kept() -> None:
    program = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        assert process.wait(timeout=60) == 7


def test_a_pipe_that_is_full_and_does_not_wait_costs_what_does_not_fit() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        ended = run("bars", out=subprocess.PIPE, err=writer)
        assert (ended.returncode, ended.stdout) == (7, SAID["out"])
        flood = subprocess.run(
            [sys.executable, "-c", PROGRAM.replace("range(3)", "range(30)")], stdout=writer, stderr=writer, timeout=60
        )
        assert flood.returncode == 7
    finally:
        os.close(reader)
        os.close(writer)


def test_where_there_is_room_everything_is_written() -> None:
    ended = run(out=subprocess.PIPE, err=subprocess.PIPE)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, SAID["out"], SAID["err"])


def test_streams_that_somebody_else_put_there_are_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    lose_what_cannot_be_written()
    assert (sys.stdout, sys.stderr) == before
