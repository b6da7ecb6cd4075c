"""What the tests of deploy/ share: a real service around the reference engine, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.models import make_model
from tests.support.serving import serving


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GRACE_") and not name.startswith("GRACE_TEST")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def live_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service with a tiny random model, run by its own command line."""
    folder = tmp_path_factory.mktemp("service")
    settings = {
        "model": make_model(folder / "tiny", "qwen2"),
        "data-dir": folder / "data",
        "port": 0,
        "engine": "transformers",
        "max-inputs": 16,
        "max-running-requests": 1,
        "max-queued-requests": 300,
    }
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    with serving(folder / "log", flags) as url:
        yield url
