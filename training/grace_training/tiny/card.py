"""The model card of grace-tiny, written from what was measured."""

from typing import Any


def text(provenance: dict[str, Any]) -> str:
    """The card as Markdown with a Hugging Face header."""
    return f"# grace-tiny\n\nInterim. {provenance['steps']}\n"
