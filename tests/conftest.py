"""What tests share: tiny models, made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Protocol

import huggingface_hub.constants
import pytest
import torch
from hypothesis import settings

from grace.representation import Role
from tests.support.forked import forked_engines, in_this_run
from tests.support.models import CONFIG, Family, make_model

# How long an example takes says how busy the machine is, not whether it holds.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# The oracles are tiny: their threads would only stand in the engine's way.
torch.set_num_threads(1)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # another worker's engine has the other core: threads would wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# The hub's own client asks our servers; imported after that, as in a worker of xdist, it would ask nobody.
huggingface_hub.constants.HF_HUB_OFFLINE = False


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # whoever starts the workers
        run = ExitStack()
        run.enter_context(in_this_run())
        config.add_cleanup(run.close)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes and long strings are named by their argument: people read the names, and workers must agree on them.

    Packed bytes carry the time at which they were made: two workers would collect different tests.
    """
    return argname if isinstance(val, bytes) or (isinstance(val, str) and len(val) > 200) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: at the end, one of them would keep a worker busy and the other waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def quick_starts() -> Iterator[None]:
    """Of vLLM in this process: for tests of what an engine does, whatever started it."""
    with forked_engines():
        yield


class ModelFolder(Protocol):
    def __call__(self, family: Family = "qwen2", *, long_instruction: bool = False) -> Path: ...


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A tiny random model of a family; about half of its rationales end by themselves."""

    @cache
    def folder(family: Family = "qwen2", *, long_instruction: bool = False) -> Path:
        config = CONFIG
        if long_instruction:
            texts: dict[Role, str] = {role: text + " Be exact." * 40 for role, text in CONFIG.instruction.items()}
            config = replace(CONFIG, instruction=texts, max_input_tokens=128)
        return make_model(tmp_path_factory.mktemp(family), family, config=config, context=1024, stop_bias=3.0)

    return folder
