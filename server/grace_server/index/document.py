"""Documents: what a caller hands in, checked; what the store gives back."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grace.rationale import read
from grace.representation import FinishReason, Rationale, Segment
from grace_server.index.errors import InvalidValue, TooLarge
from grace_server.index.metadata import Entry, entries
from grace_server.index.vectors import Floats, checked, checked_together, to_blob

Given = Literal["text", "rationale", "vector"]
State = Literal["pending", "ready", "failed", "cancelled"]

MAX_ID_BYTES = 512
MAX_TEXT_BYTES = 16 * 1024 * 1024
MAX_RATIONALE_BYTES = 1024 * 1024
MAX_METADATA_BYTES = 256 * 1024
MAX_METADATA_DEPTH = 16
MAX_BATCH = 10_000
_INT64 = 2**63
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True, eq=False)
class DocumentInput:
    """One document to write, checked and ready for the store. Made by `check_documents` only."""

    id: str
    text: str
    metadata: str  # canonical JSON
    rationale: str | None  # given by the caller
    vector: Floats | None  # (H,) given by the caller
    entries: frozenset[Entry] = frozenset()  # of the metadata

    @property
    def given(self) -> Given:
        """What the vector will be made from."""
        if self.vector is not None:
            return "vector"
        return "text" if self.rationale is None else "rationale"

    @property
    def content(self) -> bytes:
        """SHA-256 of all that decides the vector: equal content needs no second embedding."""
        digest = hashlib.sha256()
        vector = b"" if self.vector is None else to_blob(self.vector)
        rationale = b"" if self.rationale is None else b"r" + self.rationale.encode()
        for part in (self.text.encode(), rationale, vector):
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is stored."""

    label: int
    id: str
    state: State
    seq: int
    text: str
    metadata: dict[str, Any]
    given: Given
    rationale: Rationale | None
    fingerprint: str | None
    truncated: bool
    reason: str | None  # why it is `failed`


@dataclass(frozen=True, slots=True, eq=False)
class StoredSums:
    """What explanations of a document are computed from."""

    segments: tuple[Segment, ...]
    sums: Floats  # (S, H), of float16 ones up to a factor they have in common


def check_documents(
    documents: Sequence[Mapping[str, Any]],
    *,
    dimensions: int | None,
    normalize: bool,
) -> list[DocumentInput]:
    """Check a batch, and name the field of the first that cannot be taken. A batch is taken whole or not at all.

    Raises:
        InvalidValue: `param` is like `documents[3].metadata`.
        TooLarge: over a limit, which the message names.
    """
    if not documents:
        raise InvalidValue("documents must hold at least one document", param="documents")
    if len(documents) > MAX_BATCH:
        raise TooLarge(f"documents holds {len(documents)}, the limit is {MAX_BATCH} a request", param="documents")
    given = [i for i, document in enumerate(documents) if document.get("vector") is not None]
    rows = checked_together([documents[i]["vector"] for i in given], dimensions=dimensions, normalize=normalize)
    vectors = {} if rows is None else dict(zip(given, rows, strict=True))
    checked_ones: list[DocumentInput] = []
    first_at: dict[str, int] = {}
    for i, document in enumerate(documents):
        here = f"documents[{i}]"
        one = _check(document, here, dimensions, normalize, vectors.get(i))
        if (earlier := first_at.setdefault(one.id, i)) != i:
            raise InvalidValue(f"{here}.id is the same as documents[{earlier}].id", param=f"{here}.id")
        checked_ones.append(one)
    return checked_ones


def well_formed(text: str) -> str:
    """The text with lone surrogates replaced by U+FFFD, as `grace.prompt` does (importing that costs seconds)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def check_id(value: object, *, param: str) -> str:
    """A document's id: any text of 1..512 bytes without control characters.

    Raises:
        InvalidValue: it is not.
    """
    if not isinstance(value, str) or not value:
        raise InvalidValue(f"{param} must be a text that is not empty", param=param)
    if well_formed(value) != value or _CONTROL.search(value):
        raise InvalidValue(f"{param} may not hold control characters or lone surrogates", param=param)
    if len(value.encode()) > MAX_ID_BYTES:
        raise InvalidValue(f"{param} is over the limit of {MAX_ID_BYTES} bytes", param=param)
    return value


def canonical_metadata(value: object, *, param: str) -> str:
    """The one spelling of some metadata: keys sorted, no spaces, UTF-8.

    Raises:
        InvalidValue: not an object of JSON values, too deep, or with numbers or characters that JSON stores cannot
            give back (NaN, infinity, integers over 64 bits, U+0000, lone surrogates).
        TooLarge: over 256 KiB.
    """
    if value is None:
        return "{}"
    if not isinstance(value, dict):
        raise InvalidValue(f"{param} must be an object", param=param)
    _check_json(value, param, MAX_METADATA_DEPTH)
    text = _CANONICAL.encode(value)
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise TooLarge(f"{param} is over the limit of {MAX_METADATA_BYTES} bytes", param=param)
    return text


def rationale_of(text: str, *, finish_reason: str | None, tokens: int, thinking_open: bool) -> Rationale | None:
    """A stored rationale with its parts. The token ids are not kept, so `token_ids` holds that many zeros."""
    if not text and finish_reason is None:
        return None
    reasons: dict[str, FinishReason] = {"stop": "stop", "length": "length", "given": "given"}
    return read(text, (0,) * tokens, reasons.get(finish_reason or "", "given"), thinking_open=thinking_open)


def _check(
    document: Mapping[str, Any],
    here: str,
    dimensions: int | None,
    normalize: bool,
    vector: Floats | None,  # (H,) if it is checked already
) -> DocumentInput:
    text = document.get("text")
    if text is None and document.get("vector") is not None:
        text = ""
    if not isinstance(text, str):
        raise InvalidValue(f"{here}.text must be a text", param=f"{here}.text")
    if len(text) > MAX_TEXT_BYTES or len(text.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        raise TooLarge(f"{here}.text is over the limit of {MAX_TEXT_BYTES} bytes", param=f"{here}.text")
    rationale = document.get("rationale")
    if rationale is not None and not isinstance(rationale, str):
        raise InvalidValue(f"{here}.rationale must be a text", param=f"{here}.rationale")
    if rationale is not None and len(rationale.encode("utf-8", "replace")) > MAX_RATIONALE_BYTES:
        raise TooLarge(f"{here}.rationale is over the limit of {MAX_RATIONALE_BYTES} bytes", param=f"{here}.rationale")
    metadata = document.get("metadata")
    if vector is None and document.get("vector") is not None:
        vector = checked(document["vector"], dimensions=dimensions, normalize=normalize, param=f"{here}.vector")
    return DocumentInput(
        id=check_id(document.get("id"), param=f"{here}.id"),
        text=well_formed(text),
        metadata=canonical_metadata(metadata, param=f"{here}.metadata"),
        rationale=None if rationale is None else well_formed(rationale),
        vector=vector,
        entries=frozenset(entries(metadata)) if isinstance(metadata, dict) and metadata else frozenset(),
    )


def _check_json(value: object, param: str, depth: int) -> None:
    if depth < 0:
        raise InvalidValue(f"{param} is nested deeper than {MAX_METADATA_DEPTH} levels", param=param)
    match value:
        case dict():
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise InvalidValue(f"{param}: keys must be texts", param=param)
                _check_text(key, param)
                _check_json(inner, param, depth - 1)
        case list():
            for inner in value:
                _check_json(inner, param, depth - 1)
        case str():
            _check_text(value, param)
        case bool() | None:
            pass
        case int():
            if not -_INT64 <= value < _INT64:
                raise InvalidValue(f"{param}: integers must fit 64 bits", param=param)
        case float():
            if not math.isfinite(value):
                raise InvalidValue(f"{param} may not hold NaN or infinity", param=param)
        case _:
            raise InvalidValue(f"{param} may hold JSON values alone", param=param)


def _check_text(text: str, param: str) -> None:
    if "\0" in text or well_formed(text) != text:
        raise InvalidValue(f"{param}: texts may not hold U+0000 or lone surrogates", param=param)
