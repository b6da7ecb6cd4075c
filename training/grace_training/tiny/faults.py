"""What a rationale should not have written, to the token: a term twice, an invented term, a run of words again."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from grace import Rationale
from grace_training.tiny.rationales import Role
from grace_training.tiny.tokenizer import THINK, THINK_END

RUN = 3  # words that come again and are a loop

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Faulty:
    """A rationale as a model wrote it; at `places` of its tokens something else should have come."""

    role: Role
    text: str
    token_ids: tuple[int, ...]
    places: tuple[int, ...]


def put_right(thinking: str, text: str) -> str:
    """The terms that the text has, each once, in their order."""
    return ", ".join(term for _, term, good in judged(thinking, text) if good)


def judged(thinking: str, text: str) -> Iterator[tuple[int, str, bool]]:
    """Each term with the character it begins at, and whether the text has it and it stands for the first time."""
    kept: list[str] = []
    for part in re.finditer(r"[^,]+", thinking):
        term = part.group().strip()
        if not term:
            continue
        low = term.lower()
        good = low in text.lower() and not any(low in other or other in low for other in kept)
        if good:
            kept.append(low)
        yield part.start() + len(part.group()) - len(part.group().lstrip()), term, good


def repeated(understanding: str) -> Iterator[int]:
    """Where a word begins that is the one before it again, or ends a run of words that has come before."""
    words = [(match.start(), match.group()) for match in re.finditer(r"\w+", understanding.lower())]
    seen: set[tuple[str, ...]] = set()
    for i, (at, word) in enumerate(words):
        run = tuple(one for _, one in words[max(0, i - RUN + 1) : i + 1])
        if (i > 0 and words[i - 1][1] == word) or run in seen:
            yield at
        if len(run) == RUN:
            seen.add(run)


def faults(rationale: Rationale, text: str, decode: Decode) -> list[int]:
    """The places in `rationale.token_ids` where a fault begins: the first token of each faulty term or word.

    Only the first: the tokens after it spell a word that was begun, and spelling is no fault. `decode` gives the text
    of a beginning of the ids, marks included.
    """
    opening = len(THINK) if rationale.text.startswith(THINK) else 0
    closing = rationale.text.find(THINK_END)
    if closing < 0:
        return []
    thinking, after = rationale.text[opening:closing], closing + len(THINK_END)
    wrong = [opening + at for at, _, good in judged(thinking, text) if not good]
    wrong += [after + at for at in repeated(rationale.text[after:])]
    ends = [len(decode(rationale.token_ids[: i + 1])) for i in range(len(rationale.token_ids))]
    return sorted({next(i for i, end in enumerate(ends) if end > at) for at in wrong if ends and at < ends[-1]})
