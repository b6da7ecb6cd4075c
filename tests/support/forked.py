"""A process that has imported vLLM, the service and the trainer once, for all workers of a run, and forks at each call.

Spawned, each engine would import vLLM for fifteen seconds, and each service before it as long again. What is forked is
otherwise the same: `grace-serve`'s own `main` in a process of its own, and vLLM's engine in another.

`python -m tests.support.forked FOLDER` is that process; it listens there, and ends with the run and all that it forked.
"""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from grace.checkpoint import Checkpoint
from grace.engines.vllm_start import prepare_environment
from grace.prompt import Prompter

_FOLDER = "FORKED"  # the variable by which the workers of a run find it
_IMPORTED = (
    "grace_server.cli",
    "grace.engines.vllm_scheduler",
    "grace.engines.vllm_worker",
    "grace_training.trainer",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.metrics.loggers",
)
_ROOT = Path(__file__).parents[2]


@contextmanager
def in_this_run() -> Iterator[None]:
    """Have workers that start meanwhile share one. It is not started before the first of them needs it."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {_FOLDER: folder}):
        os.mkfifo(f"{folder}/alive")
        alive = os.open(f"{folder}/alive", os.O_RDWR)
        try:
            yield
        finally:
            os.close(alive)


class ForkedProcess(ForkServerProcess):
    """Has the environment of whoever starts it, as a spawned one, and nothing of his script."""

    _environment: dict[str, str]

    def run(self) -> None:
        os.environ.clear()
        os.environ.update(self._environment)
        super().run()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        process_obj._environment = dict(os.environ)
        with (
            patch.object(forkserver, "connect_to_new_process", _server().connect_to_new_process),
            patch.dict(sys.modules, {"__main__": ModuleType("__main__")}),
        ):
            return ForkServerProcess._Popen(process_obj)


@contextmanager
def forked_engines() -> Iterator[None]:
    """Meanwhile vLLM forks, where it would spawn: on a CPU, as a GPU is not to be had in a process that was forked."""
    if not prepare_environment():
        yield
        return
    import vllm.v1.engine.utils

    with patch.object(vllm.v1.engine.utils, "get_mp_context", _Forked):
        yield


def forked_service(flags: Sequence[str], environment: Mapping[str, str], *, out: Path, log: Path) -> BaseProcess:
    """`grace-serve`, started; what it prints goes to `out`, its standard error to `log`."""
    with patch.dict(os.environ, environment, clear=True):
        return _started(_serve, list(flags), str(out), str(log))


def forked_script(path: Path, arguments: Sequence[str], variables: Mapping[str, str], *, log: Path) -> BaseProcess:
    """A script, started with our environment and `variables`; all that it prints goes to `log`."""
    with patch.dict(os.environ, variables):
        return _started(_run, str(path), list(arguments), str(log))


def _started(work: Callable[..., None], *arguments: object) -> BaseProcess:
    """Forked, or spawned where there is a GPU."""
    kind = ForkedProcess if prepare_environment() else SpawnProcess
    process: BaseProcess = kind(target=work, args=arguments)
    with patch.dict(sys.modules, {"__main__": ModuleType("__main__")}):
        process.start()
    return process


def _serve(flags: list[str], out: str, log: str) -> None:
    from grace_server import cli

    _redirect(out, log)
    with forked_engines():
        cli.main(flags)


def _run(path: str, arguments: list[str], log: str) -> None:
    _redirect(log, log)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def _redirect(out: str, log: str) -> None:
    for number, path in ((0, os.devnull), (1, out), (2, log)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)


class _Forked(ForkServerContext):
    Process = ForkedProcess


class _ForkServer(forkserver.ForkServer):
    """multiprocessing's client of such a process, of one that others may have started."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._forkserver_address = str(folder / "socket")
        # Whatever is forked holds it, and the process that forks ends when nobody does.
        self._forkserver_alive_fd = os.open(folder / "alive", os.O_RDWR)

    def ensure_running(self) -> None:
        resource_tracker.ensure_running()


@cache
def _server() -> _ForkServer:
    folder = Path(os.environ[_FOLDER])
    with (folder / "lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not (folder / "socket").exists():
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(folder / "socket"))
            listener.listen()  # who calls from now on waits until it has imported everything
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder), str(listener.fileno())],
                cwd=_ROOT,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "LD_PRELOAD": ":".join(_preloaded())},
                pass_fds=[listener.fileno()],
            )
            listener.close()
    return _ForkServer(folder)


def _preloaded() -> list[str]:
    """The libraries that vLLM has its own processes load first (`vllm.platforms.cpu`)."""
    torch, vllm = (Path(str(spec.origin)).parent for name in ("torch", "vllm") if (spec := find_spec(name)))
    found = (
        sorted(folder.glob(pattern))[:1]
        for folder, pattern in (
            (vllm / "libs", "libtcmalloc*.so*"),
            (torch.parent / "torch.libs", "libgomp*.so*"),
            (torch / "lib", "libgomp*.so*"),
        )
    )
    return [path for path in [os.environ.get("LD_PRELOAD")] if path] + [str(path) for paths in found for path in paths]


def main(folder: str, listener: str) -> None:
    """Import, then fork whenever somebody asks."""
    alive = os.open(f"{folder}/alive", os.O_RDONLY)
    prepare_environment()
    for name in _IMPORTED:
        import_module(name)
    Prompter(Checkpoint.load())  # what Transformers imports only for this
    forkserver.main(int(listener), alive, [])


if __name__ == "__main__":
    main(*sys.argv[1:])
