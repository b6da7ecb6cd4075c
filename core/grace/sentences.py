"""Where one segment ends and the next begins, in characters and in token ids."""

from __future__ import annotations

import re
from collections.abc import Sequence

# A sentence ends at its closing mark, with the quotes and brackets that close over it; segments, not grammar.
# Marks that also stand inside words and numbers ("3.5", "e.g.x", Urdu "ایم۔اے", Khmer "។ល។", Armenian "12։30"), or in a
# run with such ("؟!"), end it before white space alone: "e.g. x" is cut.
_SPACED = ".!?…؟۔։។៕"
# Those of scripts that need no space there (Chinese, Japanese, Burmese, Ethiopic) and the dandas of Indic ones mean
# nothing else and always end it. The full-width stop does, too, unless a digit follows.
_UNSPACED = "。！？｡।॥။።፧"
_BREAKS = "\n\u2028\u2029"
ENDS = frozenset(f"{_SPACED}{_UNSPACED}．{_BREAKS}")  # of CRLF the second half, so that it ends one line and not two
# A run of marks is tried once and as a whole: from each of its marks, a line of dots takes seconds.
_END = re.compile(
    rf"""(?<![{_SPACED}])[{_SPACED}]++["'”’)\]]*+(?=\s)|(?:[{_UNSPACED}]|．(?!\d))+["'”’」』）｣]*|[\r{_BREAKS}]+"""
)


def sentence_ends(text: str, *, limit: int) -> list[int]:
    """Character offsets at which sentences of `text` end, the last one being its length; at most `limit` of them.

    White space after a sentence belongs to it. Past the limit, neighbours are merged evenly by length, so that a long
    text keeps its resolution all through instead of only at its head.
    """
    ends: list[int] = []
    first = len(text) - len(text.lstrip())  # what is no white space
    end = 0
    for match in _END.finditer(text):
        if match.end() <= end:  # within the white space after the one before
            continue
        end = match.end()
        while end < len(text) and text[end].isspace():
            end += 1
        if end > first:
            ends.append(end)
    if not ends or ends[-1] < len(text):
        if ends and not text[ends[-1] :].strip():
            ends[-1] = len(text)
        else:
            ends.append(len(text))
    return merge(ends, limit=limit)


def merge(ends: Sequence[int], *, limit: int) -> list[int]:
    """At most `limit` of the ascending `ends`, spread evenly over the length; the last one always stays."""
    if len(ends) <= limit:
        return list(ends)
    kept: list[int] = []
    goal = ends[-1] / limit
    for end in ends[:-1]:
        if end >= goal * (len(kept) + 1) and len(kept) < limit - 1:
            kept.append(end)
    return [*kept, ends[-1]]


def runs(boundary: Sequence[bool], *, limit: int) -> list[int]:
    """Lengths in tokens of the segments of a generated text, given which tokens end one; at most `limit`.

    The engine cuts as it goes and cannot look ahead, so the last segment takes all that is left over.
    """
    lengths: list[int] = []
    open_run = 0
    for ends_here in boundary:
        open_run += 1
        if ends_here and len(lengths) < limit - 1:
            lengths.append(open_run)
            open_run = 0
    return [*lengths, open_run] if open_run else lengths
