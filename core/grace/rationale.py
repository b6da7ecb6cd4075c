"""Reading a rationale: what is inside <think>, what comes after."""

from __future__ import annotations

from grace.representation import FinishReason, Rationale

OPEN, CLOSE = "<think>", "</think>"


def read(
    text: str, token_ids: tuple[int, ...], finish_reason: FinishReason, *, thinking_open: bool = False
) -> Rationale:
    """Split a rationale at its tags.

    `thinking_open` says that the template itself opened <think>, so that the text begins inside it. A text without
    tags is all understanding; one that never closes its tag is all thinking.
    """
    head, opened, rest = text.partition(OPEN)
    if opened and not head.strip():
        body, inside = rest, True
    else:
        body, inside = text, thinking_open or CLOSE in text
    thinking, closed, after = body.partition(CLOSE) if inside else ("", CLOSE, body)
    return Rationale(text, thinking.strip(), after.strip() if closed else "", token_ids, finish_reason)
