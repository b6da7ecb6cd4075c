"""The last stage of grace-tiny: what it cuts texts to, and what it has the model write of them."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from grace_training.tiny import brief
from grace_training.tiny.pairs import Example
from grace_training.tiny.rationales import LONGEST, Vocabulary, Writer
from tests.training.test_tiny import FOLDER, TEXTS


@pytest.fixture(scope="module")
def writer() -> Writer:
    marks = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    return Writer(marks, Vocabulary(TEXTS + ["the and of in a is to from with"] * 50))


@pytest.mark.parametrize("text", [*TEXTS, "the and of", "hello"])
def test_every_cut_is_words_in_a_row_of_the_text_with_a_whole_rationale(writer: Writer, text: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        found = brief.cut(Example("document", text), writer, rng)
        assert found.text in text
        assert 1 <= len(found.text.split()) <= brief.WORDS
        assert found.written
        assert found.written.thinking.strip()
        assert found.written.understanding.strip()


def test_rows_are_those_that_fit(writer: Writer) -> None:
    rng = np.random.default_rng(1)
    cuts = [brief.cut(Example("query", text), writer, rng) for text in TEXTS]
    rows = brief.rows([*cuts, Example("document", TEXTS[0])], writer)
    assert rows
    assert all(len(row.ids) - row.written_from <= LONGEST for row in rows)
