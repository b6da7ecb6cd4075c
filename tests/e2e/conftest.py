"""A real Chromium before a real server process; where either is missing, the tests are skipped, visibly."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import make_model

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of the services of `served.py`, by name."""
    folder = tmp_path_factory.mktemp("e2e")
    model = make_model(folder / "tiny", "qwen2")
    command = [sys.executable, "-m", "tests.e2e.served", str(model), str(folder / "data")]
    log = (folder / "log").open("w+")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=HERE.parent.parent) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "log").read_text()[-2000:]
            yield json.loads(line)
        finally:
            process.kill()


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Any]:
    """The system's Chromium, or the one that `playwright install chromium` brought."""
    playwright = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
    system = next((path for name in NAMES if (path := shutil.which(name))), None)
    async with playwright.async_playwright() as started:
        try:
            launched = await started.chromium.launch(executable_path=system, args=OPTIONS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {str(error).splitlines()[0]}")
        yield launched
        await launched.close()


class Browsed:
    """A page, and everything that went wrong in it."""

    def __init__(self, page: Any, doors: dict[str, str]) -> None:
        self.page, self.doors = page, doors
        self.complaints: list[str] = []
        self.sent: list[str] = []  # the address of every request
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "request",
            lambda request: self.sent.append(f"{request.method} {request.url.partition('//')[2].partition('/')[2]}"),
        )

    async def open(self, view: str = "", door: str = "quick") -> None:
        await self.page.goto(f"{self.doors[door]}/{view}")

    async def check(self, *, expected: str | None = None) -> None:
        """Nothing was complained about but what was expected, nothing hostile ran, nothing sticks out sideways."""
        assert [words for words in self.complaints if expected is None or expected not in words] == []
        assert await self.page.evaluate("window.broken") is None
        assert await self.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


@pytest.fixture
async def browsed(browser: Any, doors: dict[str, str], request: pytest.FixtureRequest) -> AsyncIterator[Browsed]:
    """A fresh page at phone width, in its own session. `@pytest.mark.parametrize(..., indirect=True)` sets others."""
    options = {"viewport": {"width": 375, "height": 800}, **getattr(request, "param", {})}
    context = await browser.new_context(**options)
    context.set_default_timeout(15_000)
    yield Browsed(await context.new_page(), doors)
    await context.close()
