"""Reading a page as its reader does: its sentences, the figures in them, its examples and what they show."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_ADDRESS = re.compile(r"(http://)?(127\.0\.0\.1|localhost):8000")
_LEAST = 1e-5  # of a float that is shown in full: float32 rounds otherwise on another processor
# In what an example shows: a number with a fraction, or an ellipsis, alone or as a string of its own.
_LOOSE = re.compile(r'(-?\d+\.\d+(?:e-?\d+)?)|"?(?:\.\.\.|…)"?')
_NUMBER = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)"


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def numbers(text: str, sentence: str) -> list[str]:
    """The numbers that stand in a page where `sentence` has a #, line breaks aside."""
    pattern = re.escape(" ".join(sentence.split())).replace(r"\#", r"([\d,]+(?:\.\d+)?)")
    found = re.search(pattern, " ".join(text.split()))
    assert found, sentence
    return list(found.groups())


def near(written: str, figure: float) -> bool:
    """Equal as far as it is written, give or take one in the last place: float32 rounds otherwise elsewhere."""
    return abs(float(written) - figure) <= 1.5 * 10 ** -len(written.partition(".")[2])


def rounds_to(written: str, figure: float) -> bool:
    """The figure, rounded to as many places as are written."""
    return f"{figure:.{len(written.partition('.')[2])}f}" == written.replace(",", "")


def blocks(text: str, language: str) -> list[str]:
    """What stands in a page's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def at(url: str, example: str) -> str:
    """An example, with the address of the server that is there."""
    return _ADDRESS.sub(url, example)


@dataclass(frozen=True)
class Command:
    """A command of a console block, and what the page shows of its output."""

    line: str
    shown: str

    def output(self, url: str) -> str:
        """What it prints when it is run as written, against the server at `url`."""
        shell = ["bash", "-o", "pipefail", "-c", at(url, self.line)]
        done = subprocess.run(shell, text=True, capture_output=True, timeout=300, check=False)
        assert done.returncode == 0, (self.line, done.stderr)
        return done.stdout


def commands(block: str) -> Iterator[Command]:
    """The commands of a console block: each begins with `$ ` and ends where its quotes are closed."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        taken = next(n for n in range(1, len(lines) + 1) if _is_whole("".join(lines[:n])))
        yield Command("".join(lines[:taken]), "".join(lines[taken:]))


def differs(shown: str, told: str) -> str:
    """Where an output is not the one that is shown, or "".

    White space is the reader's: JSON is shown with line breaks of its own. An ellipsis stands for anything. A number
    with a fraction may differ by one in its last place, or by what float32 does elsewhere.
    """
    shown, told = ("".join(text.split()) for text in (shown, told))
    pattern, at = "", 0
    figures: list[str] = []
    for loose in _LOOSE.finditer(shown):
        pattern += re.escape(shown[at : loose.start()]) + (_NUMBER if loose[1] else ".*?")
        figures += [loose[1]] if loose[1] else []
        at = loose.end()
    found = re.fullmatch(pattern + re.escape(shown[at:]), told, re.DOTALL)
    if found is None:
        return f"{shown}\nis shown, but it is\n{told}"
    wrong = [
        f"{written} is shown, but it is {now}"
        for written, now in zip(figures, found.groups(), strict=True)
        if not near(written, float(now)) and abs(float(written) - float(now)) > _LEAST
    ]
    return "\n".join(wrong)


def _is_whole(command: str) -> bool:
    try:
        shlex.split(command.removesuffix("\n"))
    except ValueError:  # an open quote, or a backslash at the end
        return False
    return True
