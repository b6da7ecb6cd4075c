"""Mixed traffic: what a service with an index is asked in an hour, in one random order."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Any

from bench._client import Client
from bench._shared import WORDS

INDEX = "load"
SHARES = {"query": 0.40, "document": 0.10, "search": 0.25, "repeat": 0.25}
REPEATED = 50  # texts that are asked for again and again


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, ready to be sent."""

    kind: str
    data: bytes
    body: dict[str, Any]
    path: str


class Traffic:
    """Texts are new each time, except those that are repeated: the cache helps with what it would help with.

    With `ids` the index gets no more than so many documents: a later one takes the place of an earlier.
    """

    def __init__(self, client: Client, seed: int = 0, *, ids: int | None = None) -> None:
        self._client, self._rng, self._count = client, random.Random(seed), 0
        self._ids = (f"d{number if ids is None else number % ids}" for number in itertools.count())

    def next(self) -> Ask:
        """A request of any kind, by their shares."""
        return self.of(self._rng.choices(list(SHARES), weights=list(SHARES.values()))[0])

    def of(self, kind: str, **more: Any) -> Ask:
        """A request of this kind."""
        path, body = self._body(kind)
        body |= more
        return Ask(kind, self._client.request(path, body), body, path)

    def documents(self, count: int) -> dict[str, Any]:
        """A batch for the index, to be embedded in the background."""
        return {"documents": [{"id": next(self._ids), "text": self._words(20, 40)} for _ in range(count)]}

    def repeated(self) -> list[str]:
        """The texts that are repeated, to be asked for once beforehand."""
        rng = random.Random(1)
        return [f"Often asked, {i}: " + " ".join(rng.choices(WORDS, k=10)) + "?" for i in range(REPEATED)]

    def _body(self, kind: str) -> tuple[str, dict[str, Any]]:
        match kind:
            case "query":
                return "/embed", {"input": self._words(6, 12), "role": "query"}
            case "document":
                return "/embed", {"input": ". ".join(self._words(10, 20) for _ in range(12))}
            case "search":
                return "/search", {"index": INDEX, "query": self._words(6, 12), "k": 10}
            case "repeat":
                return "/embed", {"input": self._rng.choice(self.repeated())}
        raise ValueError(kind)

    def _words(self, least: int, most: int) -> str:
        return f"{self._next()} " + " ".join(self._rng.choices(WORDS, k=self._rng.randint(least, most)))

    def _next(self) -> int:
        self._count += 1
        return self._count
