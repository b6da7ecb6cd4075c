"""Small promises about texts: sentences, segments of a rationale, and its tags."""

from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace import rationale, sentences
from grace.sentences import merge, runs, sentence_ends


@given(text=st.text(max_size=300), limit=st.integers(1, 20))
def test_sentence_ends_ascend_to_the_end_of_the_text(text: str, limit: int) -> None:
    ends = sentence_ends(text, limit=limit)
    assert ends == sorted(set(ends))
    assert ends[-1] == len(text)
    assert len(ends) <= limit


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ("It costs 3.5 euros. Yes.", ["It costs 3.5 euros. ", "Yes."]),
        ('He said "stop." Then left.', ['He said "stop." ', "Then left."]),
        ("你好。世界！", ["你好。", "世界！"]),
        ("line one\n\nline two", ["line one\n\n", "line two"]),
        ("काम ३.५ घंटे चला। सच?", ["काम ३.५ घंटे चला। ", "सच?"]),
        ("আমি যাই।সে থাকে।", ["আমি যাই।", "সে থাকে।"]),
        ("هل النهر طويل؟! نعم.", ["هل النهر طويل؟! ", "نعم."]),
        ("وہ ایم۔اے ہے۔ وہ یہاں ہے۔", ["وہ ایم۔اے ہے۔ ", "وہ یہاں ہے۔"]),
        ("ሰላም።ደህና ነህ፧ አዎ።", ["ሰላም።", "ደህና ነህ፧ ", "አዎ።"]),
        ("မြစ်။ပင်လယ်။", ["မြစ်။", "ပင်လယ်။"]),
        ("ទន្លេ ។ល។ និងសមុទ្រ។ ត្រី៕", ["ទន្លេ ។ល។ ", "និងសមុទ្រ។ ", "ត្រី៕"]),
        ("Ժամը 12։30 է։ Գետ։", ["Ժամը 12։30 է։ ", "Գետ։"]),
        ("｢川は長い｡｣海に出る｡", ["｢川は長い｡｣", "海に出る｡"]),
        ("３．５キロの川．海．", ["３．５キロの川．", "海．"]),
        ("one\r\ntwo\r\n\r\nthree\rfour", ["one\r\n", "two\r\n\r\n", "three\r", "four"]),
        ("one\u2028two\u2029three", ["one\u2028", "two\u2029", "three"]),
        ("no end", ["no end"]),
        ("  \n ", ["  \n "]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    ends = sentence_ends(text, limit=9)
    assert [text[a:b] for a, b in zip([0, *ends], ends, strict=False)] == sentences


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 20))
def test_merging_keeps_the_last_end_and_the_limit(lengths: list[int], limit: int) -> None:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    merged = merge(ends, limit=limit)
    assert len(merged) <= limit
    assert merged[-1] == ends[-1]
    assert set(merged) <= set(ends)


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 8))
def test_runs_cover_every_token_within_the_limit(boundary: list[bool], limit: int) -> None:
    lengths = runs(boundary, limit=limit)
    assert sum(lengths) == len(boundary)
    assert len(lengths) <= limit
    assert all(lengths)


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "understanding"),
    [
        ("<think>a</think>b", False, "a", "b"),
        (" <think>a\n</think>\n b ", False, "a", "b"),
        ("a</think>b", True, "a", "b"),
        ("a</think>b", False, "a", "b"),
        ("<think>a", False, "a", ""),
        ("a", True, "a", ""),
        ("plain", False, "", "plain"),
        ("first <think>x</think>y", False, "first <think>x", "y"),
        ("", False, "", ""),
    ],
)
def test_a_rationale_is_split_at_its_tags(text: str, opened: bool, thinking: str, understanding: str) -> None:
    written = rationale.read(text, (), "stop", thinking_open=opened)
    assert (written.thinking, written.understanding) == (thinking, understanding)


@given(st.text(alphabet="ab. !\n\u3000。\t", max_size=60))
def test_white_space_after_a_sentence_is_passed_over_once_and_ends_none_by_itself(text: str) -> None:
    ends = sentence_ends(text, limit=1000)
    for end in ends[:-1]:
        assert text[:end].strip()
        assert text[end].strip()
    if text.strip():
        assert all(text[a:b].strip() for a, b in itertools.pairwise([0, *ends]))


def test_a_text_of_white_space_takes_no_longer_than_others() -> None:
    assert sentence_ends("a" + "\n " * 400_000, limit=16) == [800_001]


@pytest.mark.parametrize("run", [".", "!", "…", '.")', "?!", '."'])
@pytest.mark.parametrize("end", ["", "x", "\n"])
def test_a_long_run_of_marks_takes_no_longer_than_words(run: str, end: str) -> None:
    began = time.process_time()
    text = run * 200_000 + end
    assert sentence_ends(text, limit=16) == [len(text)]
    assert time.process_time() - began < 5, "from every mark of it anew, it takes minutes"


@given(st.text(alphabet=".!?…\"')”。！」 \na1\u3000", max_size=20))
def test_a_run_of_marks_ends_where_it_did_when_each_of_them_was_tried(text: str) -> None:
    each = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s)|[。！？]+["'”’」』）]*|\n+""")
    assert [m.span() for m in sentences._END.finditer(text)] == [m.span() for m in each.finditer(text)]
