"""openai-python's own tests of embeddings and models, unmodified, as its source distribution carries them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import openai
import pytest

from tests.server.conftest import Serve

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
FILES = ("tests/api_resources/test_embeddings.py", "tests/api_resources/test_models.py")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source of the release that is installed."""
    folder = tmp_path_factory.mktemp("suite")
    wanted = ["--no-deps", "--no-build-isolation", "--no-binary", "openai", f"openai=={version('openai')}"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip(f"openai's source cannot be fetched: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    [archive] = folder.glob("openai-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return folder / f"openai-{version('openai')}"


def outcomes(suite: Path, url: str) -> dict[str, str]:
    """Each test's name, and what it failed with, or nothing."""
    environment = {**os.environ, "TEST_API_BASE_URL": url}
    report = suite / "report.xml"
    # Its settings ask for parallel processes, which would need a plugin; the rest of them stands.
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", f"--junit-xml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *FILES]
    done = subprocess.run(command, cwd=suite, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        failure = case.find("failure")
        found[f"{case.get('classname', '').rpartition('.')[2]}.{case.get('name')}"] = (
            "" if failure is None else failure.get("message", "?")
        )
    return found


async def test_its_own_tests_pass_but_for_what_no_server_can_do_for_it(serve: Serve, suite: Path) -> None:
    """Two things fail, and both are said on the page.

    Models cannot be deleted here. And its strict mode, which checks answers before it decodes them, refuses the base64
    that the client itself asked for: those tests were written for a mock that answers with numbers whatever is asked.
    """
    asked = set(re.findall(r'"((?:gpt|text-embedding)-[\w.-]+)"', "".join((suite / f).read_text() for f in FILES)))
    service = await serve(live=True, model_aliases=",".join(sorted(asked)))
    found = await asyncio.to_thread(outcomes, suite, f"{service.url}/v1")
    failed = {name: why for name, why in found.items() if why}
    deleting = {name for name in failed if "delete" in name}
    strict = {name for name in failed if re.search(r"\[(strict|aiohttp)\]$", name)} - deleting
    assert failed.keys() == deleting | strict, failed
    assert all("NotFoundError" in failed[name] or "405" in failed[name] for name in deleting)
    assert all("APIResponseValidationError" in failed[name] for name in strict)
    passed = len(found) - len(failed)
    said = (
        f"{passed} of openai-python's {len(found)} tests of embeddings and models pass; "
        f"{len(strict)} fail by its strict mode, {len(deleting)} delete a model"
    )
    assert said in re.sub(r"\s+", " ", PAGE.read_text()), said


async def test_its_strict_mode_refuses_what_it_asks_for_and_takes_numbers(serve: Serve) -> None:
    """The reason given above, shown: the same client in the same mode, with and without its own request for base64."""
    service = await serve(live=True)
    options = {"base_url": f"{service.url}/v1", "api_key": "any", "_strict_response_validation": True}
    async with openai.AsyncOpenAI(**options) as client:  # type: ignore[arg-type]
        assert (await client.embeddings.create(model="tiny", input="x", encoding_format="float")).data
        with pytest.raises(openai.APIResponseValidationError):
            await client.embeddings.create(model="tiny", input="x")
