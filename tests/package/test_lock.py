"""The lock promises that what is installed fits together, and that nobody is bound by a licence unawares."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


licences, lock = script("licences"), script("lock")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PINS: dict[str, str] = {canonicalize_name(name): version for name, version in licences.pins()}


def fits(wanted: Requirement, version: str) -> bool:
    """Whether a version is one of those asked for; the lock leaves open which build of it (`+cpu`) an index offers."""
    return SpecifierSet(re.sub(r"\+\w+", "", str(wanted.specifier))).contains(version, prereleases=True)


def test_what_is_installed_is_what_is_locked() -> None:
    installed = {name: distribution(name).version.split("+")[0] for name in PINS}
    assert installed == PINS


def test_every_locked_package_finds_what_it_asks_for() -> None:
    wrong = []
    for name in PINS:
        for wanted in licences.requirements(name):
            other = canonicalize_name(wanted.name)
            if other in lock.LEFT_OUT:
                continue
            if other not in PINS:
                wrong.append(f"{name} needs {wanted}, which is not locked")
            elif not fits(wanted, PINS[other]):
                wrong.append(f"{name} needs {wanted}, locked is {PINS[other]}")
    assert not wrong, "\n".join(wrong)


def test_our_own_needs_are_locked() -> None:
    extras = [*lock.EXTRAS, "cpu", ""]
    for extra in extras:
        for wanted in licences.requirements("grace-embed", extra):
            name = canonicalize_name(wanted.name)
            assert fits(wanted, PINS[name]), (extra, str(wanted))


def test_the_page_of_third_parties_is_up_to_date() -> None:
    committed = (ROOT / "THIRD-PARTY.md").read_text(encoding="utf-8")
    assert committed == licences.page(), "run python scripts/licences.py"


def test_the_page_lists_what_builds_the_typescript_client_and_says_what_it_leaves_out() -> None:
    page = licences.page()
    direct = json.loads((ROOT / "clients/typescript/package.json").read_text(encoding="utf-8"))["devDependencies"]
    for name, version in direct.items():
        assert re.search(rf"^\| {re.escape(name)} \| {re.escape(version)} \| \S", page, re.MULTILINE), name
    assert "the extra `gpu`" in page
    for name, _, told in licences.npm():
        assert licences.kind(told) not in ("unknown", "strong copyleft"), (name, told)


def test_nothing_that_serves_is_strong_copyleft_or_says_nothing() -> None:
    for name in licences.needed(licences.GROUPS["serving"], set(PINS)) & set(PINS):
        told = licences.licence(name)
        assert licences.kind(told) not in ("unknown", "strong copyleft"), (name, told)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("MIT", "permissive"),
        ("Apache-2.0 OR GPL-3.0-only", "permissive"),
        ("GPL-3.0", "strong copyleft"),
        ("GNU Affero General Public License v3", "strong copyleft"),
        ("GNU Lesser General Public License v2 or later (LGPLv2+)", "weak copyleft"),
        ("MPL-2.0 AND MIT", "weak copyleft"),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", "weak copyleft"),
        ("(Apache-2.0 OR GPL-3.0-only) AND MIT", "permissive"),
        ("MIT AND GPL-3.0-only OR MPL-2.0", "weak copyleft"),
        ("Mozilla Public License 2.0 (MPL 2.0)", "weak copyleft"),
        ("Intel End User License Agreement", "own terms"),
        ("", "unknown"),
    ],
)
def test_a_licence_is_sorted_by_what_it_asks_for(told: str, kind: str) -> None:
    assert licences.kind(told) == kind


def made(folder: Path, version: tuple[int, int] = (3, 11), torch: str = "true") -> tuple[str, bool]:
    """What `make` says with a stand-in for Python, whose torch does this when imported, and whether it was content."""
    inside = folder / "inside"
    inside.write_text(f"#!/bin/sh\nif [ $1 = -c ]; then {torch}; fi\n")
    python = folder / "python"
    posing = f"import sys; sys.version_info = {(*version, 0)}; exec(sys.argv[1])"
    python.write_text(f"""#!/bin/sh
if [ $1 = -c ]; then exec {sys.executable} -c '{posing}' "$2"; fi
mkdir -p .venv/bin && cp inside .venv/bin/python
""")
    for script in (inside, python):
        script.chmod(0o755)
    (folder / "requirements.lock").touch()
    command = ["make", "-C", folder, "-f", ROOT / "Makefile", f"PYTHON={python}", ".venv/locked"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr, (folder / ".venv/locked").exists()


def test_the_pythons_that_the_readme_promises_are_those_that_make_takes(tmp_path: Path) -> None:
    [(first, last)] = re.findall(r"Python 3\.(\d+) to 3\.(\d+) and a package registry", README)
    for minor in range(int(first) - 1, int(last) + 2):
        folder = tmp_path / str(minor)
        folder.mkdir()
        told, content = made(folder, (3, minor))
        assert content == (int(first) <= minor <= int(last)), (minor, told)
        assert (f"Python 3.{first} to 3.{last} is needed" in told) != content


def test_a_torch_for_gpus_is_found_at_once_and_the_index_of_the_others_named(tmp_path: Path) -> None:
    told, content = made(tmp_path, torch="echo 'ImportError: libcudart.so.13' >&2; exit 1")
    assert not content
    assert "libcudart" in told
    assert index_in(told) == index_in(README)


def test_readme_page_and_make_name_one_index_of_torch_for_cpus() -> None:
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    assert index_in(README) == index_in(page) == index_in((ROOT / "Makefile").read_text(encoding="utf-8"))


def index_in(text: str) -> str:
    """The one address that a text gives to pip besides its own."""
    [address] = set(re.findall(r"PIP_EXTRA_INDEX_URL=(https://[\w./-]+)", text))
    return address
