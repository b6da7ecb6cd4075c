"""The documentation: it builds without a warning, every page is in the menu, every link inside leads somewhere."""

from __future__ import annotations

import html
import inspect
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import pytest

import grace
import grace_client
from grace.engines.vllm import VllmOptions

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").glob("*.md"))
MKDOCS = [sys.executable, "-m", "mkdocs", "build", "--strict"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [*MKDOCS, "--site-dir", str(folder)], cwd=ROOT, text=True, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    return folder


def words(page: str) -> str:
    """What a reader sees of a page, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


def test_the_site_has_every_page(site: Path):
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages - {"index"} <= {folder.name for folder in site.iterdir()}


def test_a_link_to_a_heading_that_is_not_there_ends_the_build(tmp_path: Path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Start\n\n[there](#start) [not there](#end)\n")
    config = (ROOT / "mkdocs.yml").read_text().partition("plugins:")[0]
    (tmp_path / "mkdocs.yml").write_text(config)
    done = subprocess.run(MKDOCS, cwd=tmp_path, text=True, capture_output=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "#end" in done.stderr
    assert "#start" not in done.stderr


@pytest.mark.parametrize("package", [grace, grace_client], ids=lambda package: package.__name__)
def test_every_name_that_a_package_gives_out_is_in_the_reference_with_its_words(site: Path, package: ModuleType):
    page = (site / "reference/index.html").read_text(encoding="utf-8")
    read = words(page)
    for name in package.__all__:
        assert re.search(rf'id="{package.__name__}\.(\w+\.)?{name}"', page), name
        given = getattr(package, name)
        if inspect.isclass(given) or inspect.isfunction(given):
            first = (inspect.getdoc(given) or "").partition("\n")[0].replace("`", "")
            assert first
            assert first in read, name


def test_the_reference_says_what_engine_client_and_rewards_take(site: Path):
    read = words((site / "reference/index.html").read_text(encoding="utf-8"))
    for option in fields(VllmOptions):
        assert re.search(rf"\b{option.name}: ", read), option.name
    for client in (grace_client.GraceClient, grace_client.AsyncGraceClient):
        assert f" {client.__name__}( url: str | None = None," in read
        for name in vars(client):
            assert name.startswith("_") or f" {name}( " in read or f" {name}() " in read, name
    for word in ("contrastive_margin( ", "contributions( ", "arXiv 2510.04506"):
        assert word in read


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_lead_somewhere(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES[:2], ids=lambda page: page.name)
def test_links_from_outside_the_site_lead_to_headings_of_it(page: Path, site: Path):
    for name, heading in re.findall(r"\]\(docs/(\w[\w-]*)\.md#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        assert f'id="{heading}"' in (site / name / "index.html").read_text(encoding="utf-8"), (name, heading)


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}" in menu, f"docs/{page.name} is not in mkdocs.yml"
