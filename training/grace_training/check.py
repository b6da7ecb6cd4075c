"""`grace-train --check`: what the data holds, before a run is spent on it."""

from __future__ import annotations

from dataclasses import dataclass

from grace.errors import InputTooLong
from grace.prompt import Prompter
from grace_training.data import Data, text_key


@dataclass(frozen=True, slots=True)
class Findings:
    """Counts, and where to look."""

    examples: int
    without_negatives: int
    bad: list[str]  # "file:line: reason", in the held-out data too
    too_long: list[str]  # "file:line: tokens", texts that will be cut
    duplicates: list[str]  # "file:line: same as file:line", equal queries and positives
    leaks: list[str]  # "file:line", examples that share a text with the held-out data

    def lines(self, *, most: int = 5) -> list[str]:
        """A report, the first few places of each kind."""
        report = [f"{self.examples} examples, {self.without_negatives} of them without negatives"]
        for title, places in (
            ("bad rows", self.bad),
            ("texts over the limit, which will be cut", self.too_long),
            ("duplicates", self.duplicates),
            ("examples that share a text with the held-out data", self.leaks),
        ):
            report.append(f"{len(places)} {title}")
            report += [f"    {place}" for place in places[:most]]
            if len(places) > most:
                report.append(f"    and {len(places) - most} more")
        return report


def check(data: Data, prompter: Prompter, held_out: Data | None = None) -> Findings:
    """Look for what makes a run worth less than it seems."""
    seen: dict[tuple[int, int], str] = {}
    duplicates, too_long, leaks = [], [], []
    known = {text_key(text) for e in (held_out.examples if held_out else []) for text in e.texts}
    whole: dict[str, str] = {}
    for example in data.examples:
        key = text_key(example.query or ""), text_key(example.positive)
        if key in seen:
            duplicates.append(f"{example.source}: same as {seen[key]}")
        seen.setdefault(key, example.source)
        if any(text_key(text) in known for text in example.texts):
            leaks.append(example.source)
        for text in dict.fromkeys(example.texts):
            if text not in whole:
                whole[text] = _excess(prompter, text)
            if whole[text]:
                too_long.append(f"{example.source}: {whole[text]}")
    without = sum(not e.negatives for e in data.examples)
    bad = data.bad + (held_out.bad if held_out else [])
    return Findings(len(data.examples), without, bad, too_long, duplicates, leaks)


def _excess(prompter: Prompter, text: str) -> str:
    """What is too much of a text, or nothing."""
    try:
        prompter.job(text, mode="direct", truncate=False)
    except InputTooLong as error:
        return f"{error.length} tokens, the limit is {error.limit}"
    return ""
