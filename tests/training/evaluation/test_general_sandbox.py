"""What a program may do in the sandbox, and how it is judged."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from grace_training.evaluation import general_code, general_sandbox
from grace_training.evaluation.general_sandbox import Limits, Verdict, run

QUICK = Limits(wall_s=20.0, cpu_s=1)


@pytest.fixture(scope="module")
def isolated() -> bool:
    return general_sandbox.check()


def test_a_right_program_passes_and_a_wrong_one_says_why() -> None:
    assert run("assert 1 + 1 == 2")[:2] == (True, "")
    assert run("assert False, 'no'").reason == "AssertionError: no"
    assert run("def f(:").reason.startswith("SyntaxError")


@pytest.mark.parametrize("leaving", ["import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit"])
def test_leaving_before_the_last_line_is_not_passing(leaving: str) -> None:
    verdict = run(f"{leaving}\nassert False")
    assert not verdict.passed
    assert "before its last line" in verdict.reason


def test_time_is_limited_whether_it_is_spent_or_slept_away() -> None:
    assert not run("while True: pass", QUICK).passed
    start = time.monotonic()
    assert run("import time; time.sleep(60)", Limits(wall_s=1.0)).reason == "over 1 s"
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("x = bytearray(3 * 2**30)", "MemoryError"),
        ("open('a', 'wb').write(b'x' * 2**22)", "OSError"),
        ("[open('/dev/null') for _ in range(100)]", "OSError"),
        ("def f(): f()\nf()", "RecursionError"),
        ("assert input() == ''", "EOFError"),
    ],
)
def test_memory_files_and_input_are_limited(program: str, reason: str) -> None:
    assert run(program).reason.startswith(reason)


def test_nothing_of_the_environment_comes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "secret")
    verdict = run("import os\nassert set(os.environ) <= {'PATH', 'HOME', 'TMPDIR', 'LC_CTYPE'}, os.environ")
    assert verdict.passed, verdict.reason


def test_it_has_a_folder_of_its_own_that_is_gone_afterwards() -> None:
    verdict = run("import os\nopen('a', 'w').write('x')\nassert os.listdir() == ['a']\nraise Exception(os.getcwd())")
    folder = verdict.reason.removeprefix("Exception: ")
    assert folder.startswith("/")
    assert not Path(folder).exists()


def test_output_goes_nowhere_however_much_there_is() -> None:
    assert run("print('x' * 10**7)").passed


def test_files_outside_cannot_be_changed_where_the_kernel_grants_it(isolated: bool, tmp_path: Path) -> None:
    if not isolated:
        pytest.skip("this kernel grants no namespaces")
    kept = tmp_path / "kept"
    kept.write_text("x", encoding="utf-8")
    here = Path(__file__)
    for program in (
        f"import os\nos.remove({str(kept)!r})",
        f"open({str(kept)!r}, 'w')",
        f"open({str(here)!r}, 'a')",
        f"import os\nos.chmod({str(here)!r}, 0)",
    ):
        assert not run(program).passed
    assert kept.read_text(encoding="utf-8") == "x"


def test_there_is_no_network_where_the_kernel_grants_it(isolated: bool) -> None:
    if not isolated:
        pytest.skip("this kernel grants no namespaces")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        verdict = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 5)")
    assert not verdict.passed
    assert "unreachable" in verdict.reason


def test_no_process_outlives_it_where_the_kernel_grants_it(isolated: bool) -> None:
    if not isolated:
        pytest.skip("this kernel grants no namespaces")
    name = f"left{os.getpid()}"  # the kernel keeps 15 bytes of it
    run(
        "import os, time, ctypes\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        f"    ctypes.CDLL(None).prctl(15, {name.encode()!r})\n"
        "    time.sleep(60)\n"
    )
    left = [path for path in Path("/proc").glob("[0-9]*/comm") if _read(path).strip() == name]
    assert left == []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # it ended meanwhile
        return ""


def test_a_machine_where_right_programs_fail_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(general_sandbox, "run", lambda *_: Verdict(False, "ended by SIGSYS", False))
    with pytest.raises(general_sandbox.SandboxUnusable, match="SIGSYS"):
        general_sandbox.check()


DOC = {
    "prompt": 'def add(a, b):\n    """Add two numbers."""\n',
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
    "entry_point": "add",
}


def test_a_completion_is_judged_by_the_problems_tests() -> None:
    assert general_code.completion_passes(DOC, ["    return a + b\n"]) == {"pass@1": 1.0}
    assert general_code.completion_passes(DOC, ["    return a - b\n"]) == {"pass@1": 0.0}


def test_what_a_chat_model_says_after_its_code_block_does_not_count() -> None:
    answer = "    return a + b\n```\nThis function adds two numbers; `add(1, 2)` is 3."
    assert general_code.answer_passes(DOC, [answer]) == {"pass@1": 1.0}
    assert general_code.completion_passes(DOC, [answer]) == {"pass@1": 0.0}
