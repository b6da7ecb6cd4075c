"""Texts that belong together, from the open data: the signal that turns the states of a language model into vectors.

A `Kind` is one way to read pairs out of one source. A batch is of one kind, so that the other pairs in it are real
alternatives and not given away by their style.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grace_training.tiny import corpus
from grace_training.tiny.rationales import Role, Target, Vocabulary, Writer, first_sentence, without_brackets

Row = dict[str, Any]


@dataclass(frozen=True)
class Example:
    """A text in its role, with what the data knows about it."""

    role: Role
    text: str
    title: str | None = None
    says: str | None = None  # a human summary, where there is one
    topic: str | None = None  # the intent of a query, where it is labelled
    written: Target | None = None  # of all of the text, by a model: learned as it is

    def target(self, writer: Writer, most: int) -> Target:
        """The rationale to learn, from the first `most` tokens of the text."""
        if self.written:
            return self.written
        seen = writer.visible(self.text, most)
        if self.role == "query":
            return writer.ask(seen, topic=self.topic, says=self.says)
        return writer.restate(seen, title=self.title, says=self.says)


@dataclass(frozen=True)
class Pair:
    """Two texts that belong together; `key` is shared by pairs that must not be each other's negatives."""

    key: str
    first: Example
    second: Example
    negative: Example | None = None


@dataclass(frozen=True)
class Kind:
    """One source's rows and how to draw a pair from a row."""

    rows: list[Row]
    draw: Callable[[Row, np.random.Generator], Pair]
    weight: float  # share of the contrastive batches
    long: bool  # the second text is a passage, not a sentence
    near: bool = False  # batches are drawn from neighbourhoods of the rows' texts


def short_role(rng: np.random.Generator) -> Role:
    """A sentence is met as a document or as a query."""
    return "document" if rng.random() < 0.5 else "query"


def asked_role(rng: np.random.Generator) -> Role:
    """A question is mostly met as a query; but OpenAI's clients know no roles, and send questions as documents."""
    return "document" if rng.random() < 0.25 else "query"


def article(row: Row, rng: np.random.Generator) -> Pair:
    """A title, a question for it or some words of the text, with the article; or its lead with the rest."""
    title, text = str(row["title"]), corpus.clean(str(row["text"]))
    lead = first_sentence(text)
    rest = text[len(lead) :].strip()
    name = re.sub(r"\s*\(.*\)", "", title)
    form = rng.random()
    if form < 0.45 and len(rest) > 200:
        return Pair(title, Example(short_role(rng), without_brackets(lead), name), Example("document", rest, name))
    if form < 0.7 and len(rest) > 200:
        # A sentence out of the middle, as someone would ask about it without naming the article.
        sentences = [s for s in re.split(r"(?<=[.!?]) ", rest) if 40 < len(s) < 250] or [lead]
        at = int(rng.integers(0, min(6, len(sentences))))
        return Pair(title, Example("query", sentences[at]), Example("document", text.replace(sentences[at], ""), name))
    query = (name, f"what is {name}?", f"Who or what is {name}?", f"{name.lower()} facts")[int(rng.integers(0, 4))]
    return Pair(title, Example("query", query), Example("document", text, name))


def section(row: Row, rng: np.random.Generator) -> Pair:
    """A sentence of a textbook section with the text around it, or two neighbouring passages."""
    text = corpus.clean(str(row["text"]))
    sentences = re.split(r"(?<=[.!?]) ", text)
    if rng.random() < 0.4 or len(sentences) < 8:
        half = len(sentences) // 2
        start = max(0, half - 6)
        return Pair(
            text[:80],
            Example("document", " ".join(sentences[start:half])),
            Example("document", " ".join(sentences[half : half + 8])),
        )
    at = int(rng.integers(1, len(sentences) - 2))
    around = sentences[max(0, at - 4) : at] + sentences[at + 1 : at + 5]
    return Pair(text[:80], Example("query", sentences[at]), Example("document", " ".join(around)))


def rewritten(row: Row, rng: np.random.Generator) -> Pair:
    """A sentence and the same said in two."""
    first, second = str(row["s1"]), str(row["s2"])
    return Pair(first, Example(short_role(rng), first), Example("document", second))


def entailed(row: Row, rng: np.random.Generator) -> Pair:
    """A caption, a sentence that follows from it and one that contradicts it."""
    role = short_role(rng)
    query, positive, negative = (Example(role, str(row[name])) for name in ("query", "positive", "negative"))
    return Pair(query.text, query, positive, negative)


def medical(row: Row, rng: np.random.Generator) -> Pair:
    """A research question and the abstract that answers it, or the abstract and its conclusion."""
    query, abstract, conclusion = str(row["query"]), str(row["positive"]), str(row["summary"])
    if rng.random() < 0.7:
        return Pair(query, Example(asked_role(rng), query), Example("document", abstract))
    return Pair(query, Example("document", conclusion), Example("document", abstract))


def summarised(row: Row, rng: np.random.Generator) -> Pair:
    """A one-sentence summary and its abstract."""
    summary = str(row["summary"])
    return Pair(summary, Example(short_role(rng), summary), Example("document", str(row["text"])))


def answered(row: Row, rng: np.random.Generator) -> Pair:
    """A question and the sentence that holds its answer."""
    query, positive = str(row["query"]), str(row["positive"])
    return Pair(query, Example(asked_role(rng), query), Example("document", positive))


def same_intent(row: Row, rng: np.random.Generator) -> Pair:
    """Two messages with one intent."""
    texts, topic = row["texts"], str(row["label"])
    one, two = rng.choice(len(texts), size=2, replace=False)
    first, second = (Example(asked_role(rng), texts[place], topic=topic) for place in (one, two))
    return Pair(topic, first, second)


def passage(text: str, rng: np.random.Generator, words: int = 60) -> list[str]:
    """Neighbouring sentences out of a text, about that many words in all."""
    sentences = [part for part in re.split(r"(?<=[.!?])\s+", text) if part]
    start = int(rng.integers(0, max(1, len(sentences) - 3)))
    chosen: list[str] = []
    while start < len(sentences) and sum(len(part.split()) for part in chosen) < words:
        chosen.append(sentences[start])
        start += 1
    return chosen


def spanned(row: Row, rng: np.random.Generator) -> Pair:
    """A sentence and the passage it stands in; mostly taken out of it, so that its words alone do not tell."""
    text = corpus.clean(str(row["text"]))
    sentences = passage(text, rng)
    at = int(rng.integers(0, len(sentences)))
    rest = sentences[:at] + sentences[at + 1 :]
    around = " ".join(rest if rest and rng.random() < 0.7 else sentences)
    return Pair(text[:80], Example(short_role(rng), sentences[at]), Example("document", around))


def keywords(vocabulary: Vocabulary) -> Callable[[Row, np.random.Generator], Pair]:
    """How to draw some of a passage's words, the rare ones first, with the passage: a search for what it names."""

    def draw(row: Row, rng: np.random.Generator) -> Pair:
        text = corpus.clean(str(row["text"]))
        around = " ".join(passage(text, rng))
        words = list(dict.fromkeys(re.findall(r"[^\W\d_][\w'’-]{2,}", around))) or [around]
        weights = np.array([vocabulary.rarity(word) + 0.05 for word in words]) ** 2
        size = min(len(words), int(rng.integers(2, 9)))
        chosen = rng.choice(len(words), size, replace=False, p=weights / weights.sum())
        return Pair(text[:80], Example("query", " ".join(words[int(i)] for i in chosen)), Example("document", around))

    return draw


def _kept(data: Path, name: str) -> list[Row]:
    entry = corpus.source(name)
    return [row for row in corpus.records(data, name) if not corpus.is_held_out(corpus.key_text(entry, row))]


def _intents(data: Path, name: str) -> list[Row]:
    by_label: dict[str, list[str]] = {}
    for row in _kept(data, name):
        by_label.setdefault(str(row["label"]).replace("_", " ").lower(), []).append(str(row["text"]))
    return [{"label": label, "texts": texts} for label, texts in by_label.items()]


def _normal(text: str) -> str:
    return re.sub(r"\W+", " ", text.lower()).strip()


def _captions(data: Path) -> list[Row]:
    """Entailment triples of e-SNLI and its counterfactual edits, less the sentences STSBenchmark dev is judged on."""
    judged = corpus.open_text(data / "stsbenchmark/dev.jsonl.gz")
    kept_apart = {_normal(sentence) for line in judged for sentence in re.findall(r'"s[12]":"((?:[^"\\]|\\.)*)"', line)}
    by_premise: dict[str, dict[str, list[str]]] = {}
    for name in ("esnli_dev", "esnli_test"):
        for row in _kept(data, name):
            by_premise.setdefault(str(row["s1"]), {}).setdefault(str(row["label"]), []).append(str(row["s2"]))
    rows = [
        {"query": premise, "positive": positive, "negative": negative}
        for premise, labelled in by_premise.items()
        for positive in labelled.get("entailment", ())
        for negative in labelled.get("contradiction", ())
    ]
    rows += _kept(data, "cad")
    return [row for row in rows if not any(_normal(str(row[k])) in kept_apart for k in ("query", "positive"))]


def kinds(data: Path) -> dict[str, Kind]:
    """Every kind of pair, with the share of batches it gets."""
    articles = _kept(data, "wikipedia") + _kept(data, "2wiki")
    return {
        "article": Kind(articles, article, 0.40, long=True),
        "section": Kind(_kept(data, "openstax"), section, 0.14, long=True),
        "abstract": Kind(_kept(data, "scitldr"), summarised, 0.08, long=True),
        "medical": Kind(_kept(data, "pubmedqa"), medical, 0.05, long=True),
        "caption": Kind(_captions(data), entailed, 0.16, long=False),
        "rewritten": Kind(_kept(data, "wikisplit"), rewritten, 0.03, long=False),
        "answer": Kind(_kept(data, "squad"), answered, 0.02, long=False),
        "banking": Kind(_intents(data, "banking77"), same_intent, 0.05, long=False),
        "clinc": Kind(_intents(data, "clinc150"), same_intent, 0.07, long=False),
    }


def contrast_kinds(data: Path, vocabulary: Vocabulary) -> dict[str, Kind]:
    """The kinds of the stage that learns vectors alone: those above, and two that every running text can give."""
    by_name = kinds(data)
    running = [{"text": str(row["text"])} for name in ("article", "section", "abstract") for row in by_name[name].rows]
    running += [{"text": str(row["positive"])} for row in by_name["medical"].rows]
    shares = {
        "article": 0.18,
        "section": 0.06,
        "abstract": 0.05,
        "medical": 0.04,
        "caption": 0.16,
        "rewritten": 0.02,
        "answer": 0.02,
        "banking": 0.04,
        "clinc": 0.05,
    }
    chosen = {
        name: replace(by_name[name], weight=share, near=name in ("article", "section", "abstract"))
        for name, share in shares.items()
    }
    return {
        **chosen,
        "span": Kind(running, spanned, 0.20, long=True, near=True),
        "keywords": Kind(running, keywords(vocabulary), 0.18, long=True, near=True),
    }


def batch(kind: Kind, places: Sequence[int], rng: np.random.Generator) -> tuple[list[Example], list[Example], Tensor]:
    """B pairs of a kind: first texts, second texts (then negatives, if the kind has them), clashing couples [B, M]."""
    drawn = [kind.draw(kind.rows[place], rng) for place in places]
    seconds = [pair.second for pair in drawn] + [pair.negative for pair in drawn if pair.negative]
    same = torch.tensor([[one.key == two.key for two in drawn] for one in drawn])
    clash = torch.zeros(len(drawn), len(seconds), dtype=torch.bool)
    clash[:, : len(drawn)] = same & ~torch.eye(len(drawn), dtype=torch.bool)
    return [pair.first for pair in drawn], seconds, clash


def summaries(row_kinds: dict[str, Kind], rng: np.random.Generator) -> Example:
    """One text with the best target there is for it: human summaries where the data has them.

    Apart from the pairs, since there a summary inside the rationale would give its partner away.
    """
    name = rng.choice(["article", "section", "abstract", "medical", "caption", "rewritten"], p=_SUMMARY_SHARES)
    rows = row_kinds[str(name)].rows
    row = rows[int(rng.integers(0, len(rows)))]
    match str(name):
        case "article":
            return Example("document", corpus.clean(str(row["text"])), re.sub(r"\s*\(.*\)", "", str(row["title"])))
        case "section":
            return Example("document", corpus.clean(str(row["text"])))
        case "abstract":
            return Example("document", str(row["text"]), says=str(row["summary"]))
        case "medical":
            if rng.random() < 0.5:
                return Example("query", str(row["query"]))
            return Example("document", str(row["positive"]), says=first_sentence(str(row["summary"])))
        case "caption":
            return Example("document", str(row["query"]), says=str(row["positive"]))
        case _:
            return Example("document", str(row["s1"]), says=first_sentence(str(row["s2"])))


_SUMMARY_SHARES = [0.45, 0.2, 0.15, 0.08, 0.04, 0.08]


def sample(data: Path, count: int, seed: int = 0) -> list[Example]:
    """A mixed handful of examples, for tests and for reading."""
    rng = np.random.default_rng(seed)
    by_name = kinds(data)
    examples: list[Example] = []
    for _ in range((count + 2) // 3):
        kind = by_name[str(rng.choice(list(by_name)))]
        pair = kind.draw(kind.rows[int(rng.integers(0, len(kind.rows)))], rng)
        examples += [pair.first, pair.second, summaries(by_name, rng)]
    return examples[:count]
