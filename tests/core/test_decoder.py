"""A decoder promises the text of all ids piece by piece, none sooner than it is certain, at the same cost for each."""

from __future__ import annotations

from itertools import accumulate, cycle, pairwise, takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from grace.decoder import Decoder
from tests.support.models import make_tokenizer

PARTS = [
    "\ufffd",
    "\ufffd\ufffd\ufffd",
    "😀",
    "👨‍👩‍👧",
    "é",
    "Grüße",
    "한",
    "文",
    "a",
    "The river",
    " ",
    "  ",
    "\n",
    "<|im_end|>",
    "\u0338",
]
texts = st.lists(st.sampled_from(PARTS), min_size=1, max_size=40).map("".join)


def byte_level() -> Tokenizer:
    tokenizer: Tokenizer = make_tokenizer().backend_tokenizer
    return tokenizer


def byte_fallback() -> Tokenizer:
    """In the manner of Llama 2: texts lose the space they begin with, characters it does not know are bytes."""
    pieces = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", *(chr(c) for c in range(33, 127))]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def of(tokens: list[str]) -> tuple[Tokenizer, list[int]]:
    """A byte-level tokenizer that has these tokens, and their ids."""
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, [vocab[token] for token in tokens]


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = Decoder(tokenizer)
    return [decoder.step(i) for i in ids]


TOKENIZERS = {"byte level": byte_level(), "byte fallback": byte_fallback()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=texts)
def test_pieces_are_put_together_to_the_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=False) == text


@given(text=texts, lengths=st.lists(st.integers(1, 5), min_size=1, max_size=5))
def test_pieces_are_put_together_however_tokens_cut_characters(text: str, lengths: list[int]) -> None:
    [(spelt, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    cuts = [0, *takewhile(lambda at: at < len(spelt), accumulate(cycle(lengths))), len(spelt)]
    tokenizer, ids = of([spelt[a:b] for a, b in pairwise(cuts)])
    assert "".join(pieces(tokenizer, ids)) == text


@given(ids=st.lists(st.integers(0, 255), max_size=60))
def test_bytes_that_are_no_characters_are_told_as_all_ids_together_are(ids: list[int]) -> None:
    """Whatever a model writes. At the end, a character may still be in the making."""
    tokenizer, _ = of(sorted(pre_tokenizers.ByteLevel.alphabet()))
    told, whole = "".join(pieces(tokenizer, ids)), tokenizer.decode(ids, skip_special_tokens=False)
    assert whole.startswith(told)
    assert whole[len(told) :] in ["\ufffd" * n for n in range(8)]


def test_a_character_is_told_with_the_token_that_makes_it_whole() -> None:
    tokenizer, ids = of(["a", "ï", "¿", "½", "ðŁ", "ĺ", "Ģ", "b"])  # a, U+FFFD, an emoji, b
    assert pieces(tokenizer, ids) == ["a", "", "", "\ufffd", "", "", "😀", "b"]


def test_ids_that_the_tokenizer_does_not_know_have_no_text() -> None:
    tokenizer, ids = of(["a", "b"])
    assert pieces(tokenizer, [ids[0], 1000, 1000, ids[1]]) == ["a", "", "", "b"]


class Counting:
    """A tokenizer, and the most ids it was given to decode."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.most = tokenizer, 0

    def id_to_token(self, token_id: int) -> str | None:
        return self._tokenizer.id_to_token(token_id)

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        self.most = max(self.most, len(ids))
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)


@pytest.mark.parametrize("kind", [*TOKENIZERS, "misaligned"])
def test_no_id_costs_more_than_the_one_before(kind: str) -> None:
    """Of a long run of real U+FFFD, too, and of tokens none of which ends with a character."""
    text = "a" + 2000 * "\ufffd"
    if kind == "misaligned":
        tokenizer, ids = of(["a", "ï", *(["¿½ï"] * 1999), "¿½"])
    else:
        tokenizer = TOKENIZERS[kind]
        ids = tokenizer.encode(text, add_special_tokens=False).ids
    counting: Any = Counting(tokenizer)
    assert "".join(pieces(counting, ids)) == text
    assert counting.most <= 16
