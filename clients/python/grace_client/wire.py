"""What both clients put on the wire: bodies as bytes, names as parts of a path."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from grace_client.vectors import plain

if TYPE_CHECKING:
    from grace_client.vectors import Floats

EVERY = {"field": "id", "operator": "not in", "value": []}  # a filter that lets all documents through
NONE = {"field": "id", "operator": "in", "value": []}  # and one that lets none


@dataclass(frozen=True, slots=True)
class Document:
    """A document to write. With a rationale, that one is pooled; with a vector, no model is asked."""

    id: str
    text: str | None = None
    metadata: Mapping[str, Any] | None = None
    rationale: str | None = None
    vector: Sequence[float] | Floats | None = None


def encode(body: object) -> bytes:
    """JSON in UTF-8.

    Raises:
        ValueError: it holds NaN or infinity, or what JSON has no form for, as a date.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except TypeError as error:
        raise ValueError(str(error)) from error
    except UnicodeEncodeError:
        # Lone surrogates have no UTF-8; escaped, they reach the server, which reads them as U+FFFD.
        return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def given(**fields: object) -> dict[str, Any]:
    """The fields that say something: the server's defaults hold for the rest."""
    return {name: value for name, value in fields.items() if value is not None}


def bearer(api_key: str) -> str:
    """The header in which a key is sent. Space around it, as the line end of a file it was read from, is no part of it.

    Raises:
        ValueError: no server can have such a key. It is not in the message, which may end in a log.
    """
    key = api_key.strip()
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError("api_key holds characters that a header cannot")
    return f"Bearer {key}"


def positive(**options: object) -> None:
    """Refuse an option that counts something and is no whole number of at least 1: with 0 nothing would be sent.

    Raises:
        ValueError: naming the option.
    """
    for name, value in options.items():
        if not isinstance(value, Integral) or int(value) < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def segment(name: str) -> str:
    """A name as one part of a path, whatever it holds.

    Raises:
        ValueError: it is empty, which would name the collection instead.
    """
    if not name:
        raise ValueError("a name in a path may not be empty")
    quoted = quote(name.encode("utf-8", "replace"), safe="")
    # "." and ".." are steps in a path; written like this, they are names.
    return quoted.replace(".", "%2E") if not name.strip(".") else quoted


def listed(**lists: object) -> None:
    """Refuse one text where a list of them is wanted: it is a sequence too, of its characters.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in lists.items():
        if isinstance(value, str):
            raise ValueError(f"{name} must be a list of texts, got a single one")


def side(value: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """One of the texts of a comparison."""
    return value if isinstance(value, str) else dict(value)


def document(value: Document | Mapping[str, Any]) -> dict[str, Any]:
    """A document as the server takes it."""
    fields = (
        dict(value)
        if isinstance(value, Mapping)
        else given(
            id=value.id, text=value.text, metadata=value.metadata, rationale=value.rationale, vector=value.vector
        )
    )
    if fields.get("vector") is not None:
        fields["vector"] = plain(fields["vector"])
    return fields
