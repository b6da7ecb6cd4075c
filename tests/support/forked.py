"""Engines of vLLM in processes forked from one that has imported it: spawned, each would, for fifteen seconds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any
from unittest.mock import patch

from grace.engines.vllm_start import prepare_environment

# multiprocessing's own has what the crash tests need. Started with the first engine: some of what vLLM sets in the
# environment, as which OpenMP is to be loaded, counts from a process's beginning.
_SERVER = forkserver.ForkServer()
_SERVER.set_forkserver_preload(["vllm.v1.engine.core", "grace.engines.vllm_scheduler", "grace.engines.vllm_worker"])


class ForkedProcess(ForkServerProcess):
    """Has the environment of whoever starts it, as a spawned one."""

    _environment: dict[str, str]

    def run(self) -> None:
        os.environ.update(self._environment)
        super().run()

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 - multiprocessing's name
        process_obj._environment = dict(os.environ)
        with patch.object(forkserver, "connect_to_new_process", _SERVER.connect_to_new_process):
            return ForkServerProcess._Popen(process_obj)


class _Forked(ForkServerContext):
    Process = ForkedProcess


@contextmanager
def forked_engines() -> Iterator[None]:
    """Meanwhile vLLM forks, where it would spawn: on a CPU, as a GPU is not to be had in a process that was forked."""
    if not prepare_environment():
        yield
        return
    import vllm.v1.engine.utils

    with patch.object(vllm.v1.engine.utils, "get_mp_context", _Forked):
        yield
