"""The text of token ids one by one, as far as it is certain."""

from __future__ import annotations

import codecs
import re

from tokenizers import Tokenizer

_REPLACEMENT = "\ufffd"  # what a decoder writes for bytes that are no character, or no whole one yet
_MOST_HELD = 8  # tokens whose text is still to come; a character has at most four bytes
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
# How byte-level tokenizers write bytes: the printable ones of Latin-1 as themselves, the others from U+0100 on.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = sorted({*range(0x100)} - {*_PRINTABLE})
_ALPHABET = {chr(byte): byte for byte in _PRINTABLE} | {chr(0x100 + n): byte for n, byte in enumerate(_OTHERS)}


class Decoder:
    """The text that each further id adds.

    tokenizers' `DecodeStream` takes every U+FFFD at an end for a character in the making: in a run of real ones it says
    nothing, and decodes the whole run again at each step.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # those of the last piece, and behind them those whose text is still to come
        self._told = 0  # how many are of the last piece: without it, what follows could lose the space it begins with
        self._text = ""  # of the last piece's ids, decoded by themselves

    def step(self, token_id: int) -> str:
        """Its text: none while a character is in the making."""
        if self._tokenizer.id_to_token(token_id) is None:  # models may have more ids than their tokenizers
            return ""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        unfinished = text.endswith(_REPLACEMENT) and self._ends_within_a_character()
        held = self._ids[self._told :]
        if unfinished and len(held) < _MOST_HELD:
            return ""
        # So many tokens hold several characters, of which the last one alone is not whole.
        end = -1 if unfinished else None
        alone = self._decode(held)[:end]
        # Single bytes that turn out to be no characters change what was there before: begin anew, as vLLM does.
        piece = text[len(self._text) : end] if text.startswith(self._text) else alone
        if piece or len(held) >= _MOST_HELD:
            self._ids, self._told, self._text = held, len(held), alone
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _ends_within_a_character(self) -> bool:
        reader = codecs.getincrementaldecoder("utf-8")("replace")
        reader.decode(b"".join(_bytes_of(self._tokenizer.id_to_token(i) or "") for i in self._ids))
        return bool(reader.getstate()[0])


def _bytes_of(token: str) -> bytes:
    """What a token stands for: a byte by its number, bytes in the byte-level alphabet, or its own characters."""
    if byte := _BYTE.fullmatch(token):
        return bytes.fromhex(byte[1])
    if _ALPHABET.keys() >= set(token):
        return bytes(_ALPHABET[character] for character in token)
    return token.encode()
