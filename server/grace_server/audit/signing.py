"""Audit records: a signed line that says what an embedding was made from, without the text itself.

    {"record": {...}, "signature": "<base64>"}

The signature is Ed25519 over the record as JSON with sorted keys, without spaces, in ASCII: whoever has the public key
can check it, and only the server can make it. `grace-index audit verify` checks lines and makes their vectors again.

A vector made again differs in its last bits (a batch adds up in another order), so its hash alone would call every
replay a forgery. The sketch, SKETCH sums of the vector under fixed signs, tells how far another vector is away from it:
the mean square of the differences is, in expectation, the squared distance.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from grace.errors import GraceError
from grace.pooling import Floats

FORMAT = 1  # of a record; raise it when a field changes its meaning
SKETCH = 16  # numbers of a sketch: enough to tell rounding (1e-6) from another text (1e-1), too few to invert


class KeyUnusable(GraceError):
    """The file holds no Ed25519 key that can be used for this."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs records with the server's private key."""

    private: Ed25519PrivateKey

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Read a private key in PEM (PKCS 8).

        Raises:
            KeyUnusable: it is not there, not readable, or of another kind.
        """
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise KeyUnusable(f"audit_key {path}: no private key can be read: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyUnusable(f"audit_key {path}: it is no Ed25519 key; make one with: grace-index audit key FILE")
        return cls(key)

    @property
    def public(self) -> str:
        """The public key, PEM: what others check signatures with."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def sign(self, record: dict[str, Any]) -> dict[str, Any]:
        """The line of a record, as an object."""
        signature = self.private.sign(canonical(record))
        return {"record": record, "signature": base64.b64encode(signature).decode("ascii")}


def is_signed(line: dict[str, Any], key: Ed25519PublicKey) -> bool:
    """Whether a line's record is exactly what the owner of the key signed."""
    try:
        key.verify(base64.b64decode(line["signature"], validate=True), canonical(line["record"]))
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


def new_key(path: Path) -> Signer:
    """Write a new private key that only its owner may read.

    Raises:
        FileExistsError: a key is never overwritten.
    """
    private = Ed25519PrivateKey.generate()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Signer(private)


def public_key(path: Path) -> Ed25519PublicKey:
    """The public key in a file that holds it, or the private one, in PEM.

    Raises:
        KeyUnusable: it holds neither.
    """
    try:
        data = path.read_bytes()
        key = load_pem_public_key(data) if b"PUBLIC KEY" in data else Signer.load(path).private.public_key()
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnusable(f"{path}: no key can be read: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyUnusable(f"{path}: it is no Ed25519 key")
    return key


def canonical(record: dict[str, Any]) -> bytes:
    """The bytes that are signed. Records hold no fractions: writers of JSON agree on everything else."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def text_hash(text: str) -> str:
    """SHA-256 of a text in UTF-8, lone surrogates read as U+FFFD."""
    return hashlib.sha256(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()).hexdigest()


def vector_hash(vector: Floats) -> str:
    """SHA-256 of a vector (D,) as little-endian float32."""
    return hashlib.sha256(vector.astype("<f4").tobytes()).hexdigest()


def sketch(vector: Floats) -> str:
    """Base64 of SKETCH little-endian float32: sums of the vector (D,) under signs that its length alone decides."""
    return base64.b64encode((_signs(len(vector)) @ vector.astype(np.float64)).astype("<f4").tobytes()).decode("ascii")


def distance(vector: Floats, sketched: str) -> float:
    """About how far a vector (D,) is from the one that was sketched, within a quarter or so.

    Raises:
        ValueError: it is no sketch.
    """
    then = np.frombuffer(base64.b64decode(sketched, validate=True), dtype="<f4")
    if len(then) != SKETCH:
        raise ValueError(f"a sketch has {SKETCH} numbers, not {len(then)}")
    now = _signs(len(vector)) @ vector.astype(np.float64)
    return float(np.sqrt(np.mean(np.square(now - then))))


def now() -> str:
    """The time, for a record: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _signs(dimensions: int) -> npt.NDArray[np.float64]:
    """(SKETCH, D) of 1 and -1, the bits of SHAKE-256: the same in every language and version."""
    bits = hashlib.shake_256(f"grace audit sketch {dimensions}".encode()).digest((SKETCH * dimensions + 7) // 8)
    flat = np.unpackbits(np.frombuffer(bits, dtype=np.uint8))[: SKETCH * dimensions]
    return (flat.reshape(SKETCH, dimensions) * 2.0 - 1.0).astype(np.float64)
