"""One server for the examples of the pages, as readers start it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.support.serving import serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `grace-serve` with the bundled model; each example is asked as if it were the first."""
    if find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    folder = tmp_path_factory.mktemp("served")
    with serving(folder / "log", ["--port", "0", "--no-cache", "--data-dir", str(folder / "data")]) as url:
        yield url
