"""Case studies: one text's rationale over training, a document's, a query's. They are shown, not judged."""

from __future__ import annotations

from collections.abc import Sequence

from grace_training.evaluation import report_published as published
from grace_training.evaluation.report_entries import Entry
from grace_training.evaluation.report_page import Case, Passage, Section
from grace_training.evaluation.report_rows import names
from grace_training.evaluation.results import Sample

MOST = 3  # texts of each kind
LONGEST = 1200  # characters of a text; rationales are shown whole


def section(found: Sequence[Entry]) -> Section | None:
    """Texts that several steps wrote about, then documents and queries of the last ones; none without samples."""
    by_text: dict[str, list[tuple[Entry, Sample]]] = {}
    for entry in found:
        for seeded in entry.runs[:1]:
            for sample in seeded.run.samples:
                by_text.setdefault(sample.text, []).append((entry, sample))
    over_steps = [
        (text, written)
        for text, written in by_text.items()
        if len({entry.key.step for entry, _ in written if entry.key.step is not None}) > 1
    ]
    cases = [_over_training(text, written) for text, written in over_steps[:MOST]]
    shown = {text for text, _ in over_steps[:MOST]}
    for role in ("document", "query"):
        rest = [(t, w) for t, w in by_text.items() if t not in shown and w[0][1].role == role]
        cases += [_plain(role, text, written) for text, written in rest[:MOST]]
    if not cases:
        return None
    words = []
    if over_steps:
        printed = ", ".join(f"{tokens} tokens at step {step}" for step, tokens in published.rationale_tokens())
        words = [f"The paper's own case, one web page: {printed} (published, {published.source()['venue']})."]
    return Section("cases", "Case studies", tuple(words), tuple(cases))


def _over_training(text: str, written: list[tuple[Entry, Sample]]) -> Case:
    ordered = sorted(written, key=lambda pair: pair[0].key.step or 0)
    labels = names([entry for entry, _ in ordered], also=("step",))
    passages = [_passage(label, sample) for label, (_, sample) in zip(labels, ordered, strict=True)]
    return Case("One text over training", (_shown(text), *_unlike(passages)))


def _plain(role: str, text: str, written: list[tuple[Entry, Sample]]) -> Case:
    labels = names([entry for entry, _ in written])
    passages = [_passage(label, sample) for label, (_, sample) in zip(labels, written, strict=True)]
    return Case("A document" if role == "document" else "A query", (_shown(text), *_unlike(passages)))


def _shown(text: str) -> Passage:
    if len(text) <= LONGEST:
        return Passage("text", text)
    return Passage(f"text, the first {LONGEST} of {len(text)} characters", text[:LONGEST])


def _passage(label: str, sample: Sample) -> Passage:
    return Passage(f"{label}, {sample.tokens} tokens", sample.rationale or "(nothing written)")


def _unlike(passages: list[Passage]) -> list[Passage]:
    """Once what was written alike: readings of one pass share their rationale."""
    return list({passage.text: passage for passage in reversed(passages)}.values())[::-1]
