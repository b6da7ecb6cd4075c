"""The lock promises that what is installed fits together, and that nobody is bound by a licence unawares."""

from __future__ import annotations

import importlib.util
import re
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
