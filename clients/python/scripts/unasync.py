"""Make the synchronous client from the asynchronous one.

    python clients/python/scripts/unasync.py            rewrites grace_client/_sync
    python clients/python/scripts/unasync.py --check    exits with 1 if it is not what it would write

Only words differ between the twins, so a list of words is enough; `primitives.py` alone is written twice by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "grace_client"
BY_HAND = {"__init__.py", "primitives.py"}
HEAD = "# Made from _async/{name} by `make generate`: change that file, not this one.\n"
WORDS = {
    r"\basync (def|with|for)\b": r"\1",
    r"\bawait ": "",
    r"\bAsync(?=[A-Z])": "",
    r"\basynccontextmanager\b": "contextmanager",
    r"\baclosing\b": "closing",
    r"\b_async\b": "_sync",
    r"\b__a(enter|exit|iter|next)__\b": r"__\1__",
    r"\ba(close|read|iter_bytes)\b": r"\1",
    r"\bAsynchronous\b": "Synchronous",
    r"\basynchronous\b": "synchronous",
}


def made() -> dict[str, str]:
    """The files of `_sync`, by name, as they should be."""
    return {
        path.name: _formatted(_translated(path.read_text(encoding="utf-8"), path.name), path.name)
        for path in sorted((PACKAGE / "_async").glob("*.py"))
        if path.name not in BY_HAND
    }


def outdated() -> list[str]:
    """Names of files in `_sync` that are not what they should be, left over ones among them."""
    found = {p.name: p.read_text(encoding="utf-8") for p in (PACKAGE / "_sync").glob("*.py") if p.name not in BY_HAND}
    wanted = made()
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def _translated(source: str, name: str) -> str:
    for pattern, replacement in WORDS.items():
        source = re.sub(pattern, replacement, source)
    return HEAD.format(name=name) + source


def _formatted(source: str, name: str) -> str:
    """Shorter words change the order of imports and where lines break."""
    path = str(PACKAGE / "_sync" / name)
    fixes = ["check", "--fix-only", "--unsafe-fixes", "--select", "I,UP028,F401", "--quiet"]
    for command in (fixes, ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", path, "-"]
        source = subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout
    return source


def main() -> int:
    """Write, or check."""
    if "--check" in sys.argv[1:]:
        if stale := outdated():
            sys.stderr.write(f"run `make generate`: {', '.join(stale)}\n")
        return 1 if stale else 0
    for name in outdated():
        text = made().get(name)
        path = PACKAGE / "_sync" / name
        if text is None:
            path.unlink()
        else:
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
