"""What grace-tiny learns to write: rationale targets built from the data, without any model.

    <think>topic, key term, key term</think>what the text says, in one short sentence<|im_end|>

A target can be read off the text itself or is a human summary of it, so the model learns to restate, not to invent.
Tokens are counted while building: no target has more than `LONGEST`, hardly one less than `SHORTEST`.
"""

import argparse
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from tokenizers import Tokenizer

from grace_training.tiny import corpus
from grace_training.tiny.tokenizer import THINK, THINK_END, TURN_END, TURN_START, mark_id, plain

Role = Literal["document", "query"]

# Each is 16 tokens with its template, one block of vLLM's cache: of a longer one the rest is read for every text anew.
INSTRUCTIONS: dict[Role, str] = {
    "document": "Explain the document",
    "query": "Explain the question",
}

SHORTEST, LONGEST = 16, 48  # tokens of the whole assistant turn, its marks included
THINK_BUDGET, ALL_BUDGET = 18, 44  # a little below LONGEST: greedy decoding must reach its end mark in time
KEPT = 0.5  # of what has room, at least, when a sentence is cut where a phrase ends

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9])|\n+")
_ABBREVIATION = re.compile(r"\b(?:St|Dr|Mrs?|Ms|Prof|No|vs|Jr|Sr|Inc|Ltd|Co|Gen|Col|Lt|Fig|etc|e\.g|i\.e|[A-Z])\.$")
_BRACKETS = re.compile(r"\s*[(\[][^()\[\]]*[)\]]")
_TERM = re.compile(r"[A-Z][\w'’-]*(?: [A-Z][\w'’-]*)+|[^\W\d_][\w'’-]{2,}")
# Words that no sentence ends on, and those of them before which one may be cut: what stands before is whole.
_OPENING = r"in|on|at|by|for|from|with|but|as|that|which|who|whose|into|onto|over|under|between|if|when|where|while"
_DANGLING = re.compile(
    rf"(?:{_OPENING}|an?|the|of|to|and|or|nor|than|is|are|was|were|be|been|being|has|have|had|may|will|its|his|her|their|"
    r"this|these|those|it|not)[,;:]?",
    re.IGNORECASE,
)
_OPENING_WORD = re.compile(_OPENING, re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """One rationale to be learned, in its two parts."""

    thinking: str
    understanding: str


def first_sentence(text: str) -> str:
    """The text up to its first sentence end; titles and initials ("St.", "J.") do not end one."""
    for match in _SENTENCE_END.finditer(text):
        head = text[: match.start()]
        if len(head) > 20 and not _ABBREVIATION.search(head):
            return head.strip()
    return text.strip()


def without_brackets(text: str) -> str:
    """The text without its parentheses (dates of birth, pronunciations), which a short restatement can spare."""
    return re.sub(r"\s+([,.;:])", r"\1", _BRACKETS.sub("", text)).strip()


def dangles(sentence: str) -> bool:
    """Whether it stops on a word that a phrase only begins with."""
    words = sentence.rstrip(" .,;:").split()
    return bool(words) and _DANGLING.fullmatch(words[-1]) is not None


def _cut(words: list[str], room: int) -> int:
    """How many of the first `room` words to keep, fewer than all: none dangles, and if may be, a phrase ends there."""
    whole = [
        n
        for n in range(room, 0, -1)
        if not _DANGLING.fullmatch(words[n - 1]) and (words[n - 1][-1] in ",;:" or _OPENING_WORD.fullmatch(words[n]))
    ]
    if whole and whole[0] >= KEPT * room:
        return whole[0]
    while room and _DANGLING.fullmatch(words[room - 1]):
        room -= 1
    return room


class Vocabulary:
    """How rare a word is, from the corpus: the weight of a term."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._documents: Counter[str] = Counter()
        self._count = 0
        for text in texts:
            self._documents.update({word.lower() for word in re.findall(r"[^\W\d_][\w'’-]*", text)})
            self._count += 1

    def rarity(self, word: str) -> float:
        """Inverse document frequency in nats, capped: a name seen once is not twice one seen ten times."""
        return min(math.log((1 + self._count) / (1 + self._documents[word.lower()])), 6.5)

    def terms(self, text: str, most: int = 8) -> list[str]:
        """The text's own key terms, weightiest first; runs of capitalised words stay together."""
        scores: dict[str, float] = {}
        shown: dict[str, str] = {}
        for match in _TERM.finditer(text):
            words = match.group().split()
            while words and self.rarity(words[0]) < 2.0:  # a sentence's first word is capitalised too: "The", "In"
                words = words[1:]
            if not words:
                continue
            term = re.sub(r"['’]s?$", "", " ".join(words[:4]))
            weight = max(self.rarity(word) for word in words)
            if weight < 2.5 or all(word.lower() in ENGLISH_STOP_WORDS for word in words):
                continue
            key = term.lower()
            shown.setdefault(key, term)
            # Half the weight again for the opening words: there the text says what it is about.
            scores[key] = scores.get(key, 0.5 * weight if match.start() < 150 else 0.0) + weight
        ranked = sorted(scores, key=lambda key: -scores[key])
        chosen: list[str] = []
        for key in ranked:
            if not any(key in other.lower() or other.lower() in key for other in chosen):
                chosen.append(shown[key])
            if len(chosen) == most:
                break
        return chosen


class Writer:
    """Builds targets and turns them into token ids, with one tokenizer."""

    def __init__(self, marks: Tokenizer, vocabulary: Vocabulary) -> None:
        self._marks = marks
        self._plain = plain(marks)
        self.vocabulary = vocabulary

    @cached_property
    def prefixes(self) -> dict[Role, list[int]]:
        """Template ids up to the text, by role."""
        return {
            role: self._marks.encode(
                f"{TURN_START}system\n{instruction}{TURN_END}\n{TURN_START}user\n", add_special_tokens=False
            ).ids
            for role, instruction in INSTRUCTIONS.items()
        }

    @cached_property
    def suffix(self) -> list[int]:
        """Template ids between the text and the rationale."""
        return list(self._marks.encode(f"{TURN_END}\n{TURN_START}assistant\n", add_special_tokens=False).ids)

    def text_ids(self, text: str, most: int) -> list[int]:
        """Ids of a text, cut at `most`; no mark can come of it."""
        return list(self._plain.encode(text, add_special_tokens=False).ids[:most])

    def visible(self, text: str, most: int) -> str:
        """The part of the text that `most` tokens show: targets may speak of nothing else."""
        encoding = self._plain.encode(text, add_special_tokens=False)
        return text if len(encoding.ids) <= most else text[: encoding.offsets[most - 1][1]]

    def target_ids(self, target: Target, text: str) -> list[int]:
        """The assistant's turn: think mark, thinking, its closing, understanding, end of turn.

        A blank before the first term where the text has one: the same word without it is other tokens, and a small
        model copies tokens.
        """
        at = text.find(target.thinking.split(", ")[0])
        blank = " " if at > 0 and text[at - 1] == " " else ""
        return [
            mark_id(self._marks, THINK),
            *self.text_ids(blank + target.thinking, LONGEST),
            mark_id(self._marks, THINK_END),
            *self.text_ids(target.understanding, LONGEST),
            mark_id(self._marks, TURN_END),
        ]

    def length(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._plain.encode(text, add_special_tokens=False).ids)

    def clip(self, sentence: str, budget: int) -> str:
        """A sentence in at most `budget` tokens, closed by a full stop.

        A longer one is cut where a phrase ends, if that keeps `KEPT` of the words that have room, else at a whole word.
        """
        sentence = " ".join(sentence.split())
        words = sentence.split(" ")
        room = next((n for n in range(len(words), 0, -1) if self.length(" ".join(words[:n])) <= budget - 1), 0)
        kept = room if room == len(words) else _cut(words, room)
        clipped = " ".join(words[:kept]).rstrip(" ,;:-–.!?\"'")
        end = "?" if sentence.endswith("?") and kept == len(words) else "."
        return clipped + end if clipped else ""

    def thinking(self, text: str, title: str | None) -> str:
        """The title where the text names it, then the weightiest terms within the budget, in the order of the text.

        In that order, and not by weight, since a small model learns to copy forwards long before it learns to rank.
        """
        chosen = [title] if title and title.lower() in text.lower() and self.length(title) <= THINK_BUDGET else []
        opening = len(chosen)
        for term in self.vocabulary.terms(text):
            if any(term.lower() in other.lower() or other.lower() in term.lower() for other in chosen):
                continue
            if self.length(", ".join([*chosen, term])) > THINK_BUDGET:
                break
            chosen.append(term)
        if not chosen:
            return self.clip(text, THINK_BUDGET).rstrip(".?")
        return ", ".join([*chosen[:opening], *sorted(chosen[opening:], key=text.find)])

    def restate(self, text: str, *, title: str | None = None, says: str | None = None) -> Target:
        """Target of a document: its terms, and what it says (a human summary when given, else its first sentence)."""
        thinking = self.thinking(text, title)
        room = ALL_BUDGET - 3 - self.length(thinking)
        return Target(thinking, self.clip(says or without_brackets(first_sentence(text)) or text, room))

    def ask(self, text: str, *, topic: str | None = None, says: str | None = None) -> Target:
        """Target of a query: its terms, and what it asks, after the intent when that is known."""
        terms = self.thinking(text, None)
        thinking = f"{topic}, {terms}" if topic else terms
        opening = f"It is about {topic}: " if topic else "It asks: "
        thinking = self.clip(thinking, THINK_BUDGET).rstrip(".?")
        room = ALL_BUDGET - 3 - self.length(thinking)
        return Target(thinking, (says and self.clip(says, room)) or self.clip(opening + text, room))


def corpus_vocabulary(data: Path, most: int = 12000) -> Vocabulary:
    """Word rarities from the first part of every source: enough for weights, read in seconds."""
    texts: list[str] = []
    for name in ("wikipedia", "openstax", "2wiki", "pubmedqa", "scitldr", "esnli_dev"):
        entry = corpus.source(name)
        rows = [row for _, row in zip(range(most // 6), corpus.records(data, name), strict=False)]
        texts += [" ".join(str(row[field]) for field in entry.fields or ("text",))[:3000] for row in rows]
    return Vocabulary(texts)


def main() -> None:
    """Show a few targets, to be read by a person."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path(".tiny"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from grace_training.tiny import pairs

    writer = Writer(Tokenizer.from_file(str(options.work / "tokenizer.json")), corpus_vocabulary(options.data))
    for example in pairs.sample(options.data, 45):
        target = example.target(writer, 200)
        logging.info("%s | %s", example.role, example.text[:160].replace("\n", " / "))
        tokens = len(writer.target_ids(target, example.text))
        logging.info("    %d | %s | %s", tokens, target.thinking, target.understanding)


if __name__ == "__main__":
    main()
