"""The operating system itself says no: the n-th write, fsync or rename fails, once or from then on."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.errors import IndexNotFound
from grace_server.index.verify import Report, verify
from tests.index.model import DictModel
from tests.index.test_crash import agrees, apply

CODE = Path(__file__).with_name("failing_calls.c")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("shim") / "failing_calls.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, CODE, "-ldl"], check=True)
    return library


CASES = [
    ("write", 30, errno.ENOSPC, True),
    ("write", 55, errno.EIO, False),
    ("fsync", 9, errno.EIO, True),
    ("fsync", 26, errno.EIO, False),
    ("rename", 1, errno.ENOSPC, False),
    ("rename", 3, errno.EIO, True),
]
EVERY = [
    (call, number, errno.EIO, once)
    for call, numbers in (("write", range(1, 240, 6)), ("fsync", range(1, 60, 2)), ("rename", range(1, 12)))
    for number in numbers
    for once in (True, False)
]


@pytest.mark.parametrize(("call", "number", "error", "once"), EVERY if "GRACE_CRASH_ROUNDS" in os.environ else CASES)
def test_what_was_acknowledged_is_there_and_what_was_refused_is_not_half_there(
    tmp_path: Path, shim: Path, call: str, number: int, error: int, once: bool
) -> None:
    folder, told = tmp_path / "data", tmp_path / "told"
    folder.mkdir()
    failing = {"LD_PRELOAD": str(shim), "FAIL_CALL": call, "FAIL_AT": str(number), "FAIL_ERRNO": str(error)}
    failing |= {"FAIL_UNDER": str(folder)} | ({"FAIL_ONCE": "1"} if once else {})
    command = [sys.executable, "-m", "tests.index.failing_child", str(folder), str(told)]
    done = subprocess.run(
        command, env={**os.environ, **failing}, capture_output=True, text=True, check=False, timeout=120
    )
    answers = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines()] if told.exists() else []
    assert answers or done.returncode == 1, done.stderr

    # Of changes that were refused at the end, one may be there after all, whole: its pages were written, and what
    # failed was to learn that they are on the disk.
    catalog = Catalog(folder, Edges())
    try:
        try:
            collection = catalog.get("a")
        except IndexNotFound:
            assert not any(kind == "held" for kind, _ in answers)
            return
        assert not catalog.unopened
        for one in catalog:
            assert verify(one) == Report((), ())
        model, refused = DictModel(), []
        for kind, change in answers:
            if kind == "held":
                apply(model, 1, change)
                refused = []
            else:
                refused.append(change)
        possible = [model]
        for change in refused:
            possible.append(DictModel(dict(model.documents)))
            apply(possible[-1], 1, change)
        assert any(agrees(collection, one) for one in possible)
    finally:
        catalog.close()
