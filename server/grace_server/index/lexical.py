"""Lexical search: BM25 by SQLite FTS5 over texts and rationales, and keeping that index up to date.

The table `lexical` indexes texts that stand in `document` alone, so what leaves it has to be said word for word: remove
documents before their texts change or go, add them afterwards. `verify` finds out if that was forgotten.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from grace_server.index.filters import Clause
from grace_server.index.store import Connection
from grace_server.index.vector_index import Neighbours

MAX_TERMS = 64
_WORD = re.compile(r"\w+", re.UNICODE)


def match_expression(query: str) -> str | None:
    """FTS5's query for any of the words of a text, or None if it has none.

    Each word is quoted, so that nothing in a query is ever read as FTS5's own syntax.
    """
    # Composed first: a combining accent is no part of a word to the expression, and FTS5 compares without accents.
    composed = unicodedata.normalize("NFC", query)
    words = list(dict.fromkeys(word.lower() for word in _WORD.findall(composed)))
    words = [word for word in words if word not in STOPWORDS] or words
    return " OR ".join(f'"{spelling}"' for word in words[:MAX_TERMS] for spelling in _spellings(word)) or None


def _spellings(word: str) -> list[str]:
    """A composed word, and the same taken apart (as macOS writes file names) where FTS5 does not hold them equal.

    It takes accents off the Latin alphabet alone: of what is a letter of another one, Korean, Cyrillic and Greek say,
    the two are different words to it.
    """
    apart = unicodedata.normalize("NFD", word)
    return [word] if apart == word or all(map(_is_unaccented, word)) else [word, apart]


def _is_unaccented(character: str) -> bool:
    """Whether FTS5 reads a composed character as it reads its parts."""
    apart = unicodedata.normalize("NFD", character)
    return apart == character or apart[0].isascii() or not character.isalpha()


def add(connection: Connection, labels: Sequence[int]) -> None:
    """Index the texts and rationales of documents, as they are stored now."""
    connection.execute(
        "INSERT INTO lexical (rowid, text, rationale) SELECT label, text, rationale FROM document "
        "WHERE label IN (SELECT value FROM json_each(?))",
        (json.dumps(labels),),
    )


def remove(connection: Connection, labels: Sequence[int]) -> None:
    """Forget the texts and rationales of documents, which are still stored as they were when they were added."""
    connection.execute(
        "INSERT INTO lexical (lexical, rowid, text, rationale) SELECT 'delete', label, text, rationale FROM document "
        "WHERE label IN (SELECT value FROM json_each(?))",
        (json.dumps(labels),),
    )


def optimise(connection: Connection) -> None:
    """Merge the index into one segment. Until then words of removed documents lie in older ones, with their places."""
    connection.execute("INSERT INTO lexical (lexical) VALUES ('optimize')")


def search_words(
    connection: Connection, query: str, *, k: int, clause: Clause | None, rationale_weight: float
) -> Neighbours:
    """The k best documents by BM25, exactly; fewer if fewer match a word. Failed and pending ones are found too."""
    expression = match_expression(query)
    if expression is None:
        return Neighbours(np.empty(0, np.int64), np.empty(0, np.float32), exact=True)
    condition, parameters = ("1", ()) if clause is None else (clause.sql, clause.parameters)
    rows = connection.execute(
        "SELECT document.label, -bm25(lexical, 1.0, ?) AS score FROM lexical "
        f"JOIN document ON document.label = lexical.rowid WHERE lexical MATCH ? AND {condition} "
        "ORDER BY score DESC, document.label LIMIT ?",
        (rationale_weight, expression, *parameters, k),
    ).fetchall()
    return Neighbours(
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array([row[1] for row in rows], dtype=np.float32),
        exact=True,
    )


# Function words of English: they match nearly every document and only slow the search down.
STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a an and are as at be been but by can could did do does for from had has have how if in into is it its may of
        on or our should so such than that the their them then there these they this those to was we were what when
        where which who whom why will with would you your
        """,
    )
)
