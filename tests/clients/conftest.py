"""A server as its users start it: `grace-serve`, the bundled model, vLLM. One for both clients."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.support.serving import serving


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, once it is ready."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    folder = tmp_path_factory.mktemp("real")
    with serving(folder / "log", ["--port", "0", "--data-dir", str(folder / "data")]) as url:
        yield url
