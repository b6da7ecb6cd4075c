"""How fast the engine works through tokens when it has all it can take. Pure arithmetic; moments come as arguments."""

from __future__ import annotations

import math

_MEMORY_S = 4.0  # of saturated time; what lies further back weighs less than a third
_EVIDENCE_S = 0.5  # of saturated time without which nothing is claimed, nor before all have changed once


class Pace:
    """Recent tokens a second of an engine that was full: one with places to spare says nothing of what it could do.

    Tokens are those that a text reserves, so that what waits can be divided by it.
    """

    def __init__(self) -> None:
        self._tokens = self._seconds = 0.0
        self._since: float | None = None  # None: nobody waits
        self._lacking: float | None = None  # tokens that must be done before anything is claimed; None: not begun

    def begin(self, now: float, inside: int = 0) -> None:
        """The engine has all it can take from now on: so many tokens, which it may all have begun this moment."""
        if self._since is None:
            self._since = now
        if self._lacking is None:
            self._lacking = inside

    def finish(self, tokens: int, now: float) -> None:
        """A text that reserved so many tokens is done."""
        if self._since is None:
            return
        passed, self._since = now - self._since, now
        kept = math.exp(-passed / _MEMORY_S)
        self._tokens = self._tokens * kept + tokens
        self._seconds = self._seconds * kept + passed
        self._lacking = max(0, (self._lacking or 0) - tokens)

    def end(self) -> None:
        """The engine has places to spare again."""
        self._since = None

    def seconds_for(self, tokens: int) -> float:
        """How long so many tokens take; 0 as long as it is not known."""
        if self._seconds < _EVIDENCE_S or not self._tokens or self._lacking:
            return 0.0
        return tokens * self._seconds / self._tokens
