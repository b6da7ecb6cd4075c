"""Write THIRD-PARTY.md: every package of requirements.lock with its licence, and who needs it. `--check` only compares.

Beside them what builds and tests the TypeScript client, as its `package-lock.json` has it.

Licences are what the installed packages say of themselves, in the order of trust: an SPDX expression, classifiers, a
short free text. What says nothing, or asks for more than naming its authors, is listed on top.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "THIRD-PARTY.md"
NPM_LOCK = ROOT / "clients/typescript/package-lock.json"
# Who needs a package, the first that does; what is left is for documentation and our own tests.
GROUPS = {
    "serving": ("grace-embed[cpu,server]", "grace-client"),
    "extras of serving": ("grace-embed[qdrant,ray,tracing]",),
    "training": ("grace-embed[training,eval]",),
}
STRONG = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.IGNORECASE)
WEAK = re.compile(r"\b(LGPL|MPL|EPL|CDDL|EUPL|Lesser|Mozilla)", re.IGNORECASE)
ORDER = ("permissive", "weak copyleft", "own terms", "strong copyleft")  # the mildest first
OWN = re.compile(r"proprietary|intel|nvidia|commercial|other/", re.IGNORECASE)


def pins() -> list[tuple[str, str]]:
    """Name and version of each package of the lock."""
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return [(name, version) for name, _, version in (line.partition("==") for line in lines) if version]


def npm() -> list[tuple[str, str, str]]:
    """Name, version and licence of each package that is installed to build and test the TypeScript client."""
    found = json.loads(NPM_LOCK.read_text(encoding="utf-8"))["packages"]
    named = {path.rpartition("node_modules/")[2]: package for path, package in found.items() if path}
    return [(name, package["version"], package.get("license", "not told")) for name, package in sorted(named.items())]


def licence(name: str) -> str:
    """What a package says of its licence; "" for nothing."""
    found = distribution(name).metadata
    if expression := found.get("License-Expression"):
        return str(expression)
    classifiers = [line for line in found.get_all("Classifier", []) if line.startswith("License ::")]
    if named := sorted(
        {line.rpartition(" :: ")[2] for line in classifiers} - {"OSI Approved", "Other/Proprietary License"}
    ):
        return "; ".join(sorted(named))
    text = str(found.get("License") or "").strip()
    if text and "\n" not in text and len(text) < 80:
        return text
    return by_its_words(text + "".join(licence_files(distribution(name))))


def licence_files(package: Distribution) -> Iterator[str]:
    """The texts of the licence files a package brings."""
    for file in package.files or []:
        if re.match(r"(LICEN[CS]E|COPYING)", file.name, re.IGNORECASE) and Path(str(file.locate())).is_file():
            yield file.read_text(encoding="utf-8")


def by_its_words(text: str) -> str:
    """The licence of a text, by the words that are its own."""
    for words, name in (
        ("GNU GENERAL PUBLIC LICENSE", "GPL"),
        ("Apache License", "Apache-2.0"),
        ("Permission is hereby granted, free of charge", "MIT"),
        ("Redistribution and use in source and binary forms", "BSD"),
    ):
        if words in text:
            return f"{name}, by its file"
    return ""


def needed(roots: tuple[str, ...], locked: set[str]) -> set[str]:
    """Every locked package that these need, directly or not."""
    found: set[tuple[str, str]] = set()
    left = [Requirement(root) for root in roots]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            left += [r for r in requirements(name, extra) if canonicalize_name(r.name) in locked]
    return {name for name, _ in found}


def requirements(name: str, extra: str = "") -> Iterator[Requirement]:
    """What an installed package asks for here, of one of its extras or of none."""
    try:
        found: Distribution = distribution(name)
    except PackageNotFoundError:
        return
    for line in found.requires or []:
        one = Requirement(line)
        if one.marker is None:
            if not extra:
                yield one
        elif one.marker.evaluate({"extra": extra}) and not (extra and one.marker.evaluate({"extra": ""})):
            yield one


def kind(told: str) -> str:
    """How much a licence asks for: of a choice (`OR`) the mildest, of what holds at once (`AND`) the strictest."""
    if not told:
        return "unknown"
    return ORDER[_rank(told)]


def _rank(told: str) -> int:
    # `AND` binds closer than `OR`, so a choice is taken apart first; what stands in parentheses stays whole until then.
    if len(options := parts(told, " OR ")) > 1:
        return min(map(_rank, options))
    if len(all_of_them := parts(told, " AND ")) > 1:
        return max(map(_rank, all_of_them))
    if told.startswith("(") and told.endswith(")"):
        return _rank(told[1:-1])
    return ORDER.index(kind_of_one(told))


def parts(told: str, word: str) -> list[str]:
    """What stands between the words that are in no parentheses."""
    found, depth, start = [], 0, 0
    for at, letter in enumerate(told):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and at >= start and told.startswith(word, at):
            found.append(told[start:at].strip())
            start = at + len(word)
    return [*found, told[start:].strip()]


def kind_of_one(option: str) -> str:
    """The same of a single licence."""
    if WEAK.search(option):  # asked first: LGPL has the letters GPL
        return "weak copyleft"
    if STRONG.search(option):
        return "strong copyleft"
    return "own terms" if OWN.search(option) else "permissive"


def page() -> str:
    """The whole page."""
    locked = pins()
    names = {name for name, _ in locked}
    closures = {group: needed(roots, names) for group, roots in GROUPS.items()}
    rows = []
    for name, version in locked:
        user = next((group for group, members in closures.items() if name in members), "development")
        rows.append((name, version, licence(name), user))
    lines = [
        "# Third-party software",
        "",
        "Made by `python scripts/licences.py` from what the packages of `requirements.lock` say of themselves. GRACE",
        "is Apache-2.0 and contains none of them; a container image has those it needs.",
        "",
        "Not listed is what the extra `gpu` brings in place of `cpu`: vLLM's build for CUDA with NVIDIA's libraries,",
        "which are under NVIDIA's own terms. The lock is for machines without a GPU, and the image `cuda` stands on",
        "vLLM's own, whose packages and licences are vLLM's to name.",
        "",
        "## Those that ask for more than naming their authors",
        "",
        "| package | licence | kind | for |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {told or 'not told'} | {kind(told)} | {user} |"
        for name, _, told, user in rows
        if kind(told) != "permissive"
    ]
    lines += ["", "## All of them", "", "| package | version | licence | for |", "|---|---|---|---|"]
    lines += [f"| {name} | {version} | {told or 'not told'} | {user} |" for name, version, told, user in rows]
    lines += ["", "## TypeScript client", "", "It needs nothing to run. What builds and tests it is listed in its"]
    lines += ["`package-lock.json`:", "", "| package | version | licence |", "|---|---|---|"]
    lines += [f"| {name} | {version} | {told} |" for name, version, told in npm()]
    return "\n".join(lines) + "\n"


def main() -> None:
    fresh = page()
    if "--check" not in sys.argv:
        PAGE.write_text(fresh, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != fresh:
        sys.exit("THIRD-PARTY.md is old: run python scripts/licences.py")


if __name__ == "__main__":
    main()
