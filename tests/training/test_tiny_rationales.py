"""What grace-tiny learns to write reads like a sentence, and names what a text is about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace import Rationale
from grace_training.tiny import refine
from grace_training.tiny.rationales import Target, Vocabulary, Writer, dangles

SENTENCE = "A great power is a state that is recognized as able to exert its influence on a global scale."
WORDS = ["the", "of", "is", "in", "that", "who", "power,", "state", "river;", "flows", "north", "cold"]


class WordWriter(Writer):
    """Counts words for tokens."""

    def __init__(self) -> None:
        pass

    def length(self, text: str) -> int:
        return len(text.split())


@pytest.mark.parametrize(
    ("budget", "clipped"),
    [
        (20, SENTENCE),
        (18, "A great power is a state that is recognized as able to exert its influence."),
        (14, "A great power is a state that is recognized."),
        (5, "A great power."),
    ],
)
def test_a_sentence_is_cut_where_a_phrase_ends(budget: int, clipped: str):
    assert WordWriter().clip(SENTENCE, budget) == clipped


@given(
    words=st.lists(st.sampled_from(WORDS), max_size=25),
    budget=st.integers(2, 30),
)
def test_a_clipped_sentence_is_a_beginning_within_its_budget(words: list[str], budget: int):
    clipped = WordWriter().clip(" ".join(words), budget)
    kept = clipped.removesuffix(".").split()
    assert [word.rstrip(",;") for word in kept] == [word.rstrip(",;") for word in words[: len(kept)]]
    assert len(kept) < budget
    assert len(kept) == len(words) or not dangles(clipped)


def test_a_word_that_says_nothing_is_no_term():
    vocabulary = Vocabulary(["plain words"] * 1000)
    assert vocabulary.terms("What cannot anyone get from anywhere? Uranium.") == ["Uranium"]


def test_a_rationale_that_breaks_off_is_not_learned():
    text, vocabulary = "Nations trade with each other.", Vocabulary(["the and of"] * 50)
    broken, whole = (
        Rationale(f"<think>trade</think>{said}", "trade", said, (1, 2), "stop")
        for said in ("Nations trade with.", "Nations trade.")
    )
    assert refine.best([broken], text, vocabulary) is None
    assert refine.best([broken, whole], text, vocabulary) == Target("trade", "Nations trade.")
