"""Where a rationale goes wrong, to the token: what grace-tiny unlearns."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from grace import Rationale
from grace_training.tiny import crew, faults, finetune, model, refine, tokenizer, unlearn
from grace_training.tiny.export import FOLDER
from grace_training.tiny.faults import Faulty
from grace_training.tiny.pairs import Example
from grace_training.tiny.rationales import Vocabulary, Writer

TEXT = "A propeller is a type of fan that transmits power by converting rotational motion into thrust."


@pytest.fixture(scope="module")
def marks() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def written(thinking: str, understanding: str, marks: Tokenizer) -> Rationale:
    text = f"<think>{thinking}</think>{understanding}"
    return Rationale(text, thinking, understanding, tuple(marks.encode(text, add_special_tokens=False).ids), "stop")


def begun(rationale: Rationale, text: str, marks: Tokenizer) -> list[str]:
    """What stands from each faulty token on, as far as four characters."""

    def decode(ids: Sequence[int]) -> str:
        return str(marks.decode(ids, skip_special_tokens=False))

    places = faults.faults(rationale, text, decode)
    return [decode(rationale.token_ids[place:]).strip()[:4] for place in places]


@pytest.mark.parametrize(
    ("thinking", "understanding", "wrong"),
    [
        (" propeller, fan, power", "A propeller is a type of fan.", []),
        (" propeller, fan, fan, Fan", "A propeller is a type of fan.", ["fan,", "Fan<"]),
        (" propeller, submarines, power", "A propeller is a fan.", ["subm"]),
        (" type of fan, fan", "A propeller.", ["fan<"]),
        (" fan, , thrust,", "A propeller.", []),
        (" fan", "A fan that that turns.", ["that"]),
        (" fan", "It is a type of fan and a type of fan and more.", ["of f", "fan ", "and "]),
        ("", "", []),
    ],
)
def test_a_fault_is_where_a_term_or_word_begins(
    thinking: str, understanding: str, wrong: list[str], marks: Tokenizer
) -> None:
    assert begun(written(thinking, understanding, marks), TEXT, marks) == wrong


def test_what_was_never_closed_is_not_judged(marks: Tokenizer) -> None:
    ids = tuple(marks.encode("<think> fan, fan", add_special_tokens=False).ids)
    assert begun(Rationale("<think> fan, fan", " fan, fan", "", ids, "length"), TEXT, marks) == []


@given(st.lists(st.sampled_from(["fan", "Fan", "power", "type of fan", "moon", " ", "thrust"])).map(",".join))
def test_what_is_put_right_has_no_fault(thinking: str) -> None:
    right = faults.put_right(thinking, TEXT)
    assert all(good for _, _, good in faults.judged(right, TEXT))
    assert faults.put_right(right, TEXT) == right


@given(st.integers(0, 2**16))
def test_unlearning_is_minus_the_logarithm_of_not_writing_it(seed: int) -> None:
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ids = torch.tensor([0, 6, 3, 3])
    chances = logits.softmax(dim=-1)
    expected = -sum(float(torch.log(1 - chances[i, token])) for i, token in enumerate(ids.tolist())) / 4
    assert float(finetune.unlearning(logits, ids)) == pytest.approx(expected, abs=1e-9)


def test_the_row_of_a_faulty_rationale_is_what_the_model_was_shown_and_wrote(marks: Tokenizer) -> None:
    writer = Writer(marks, Vocabulary(()))
    rationale = written(" fan, fan", "A fan.", marks)
    row, _ = finetune.encode_faulty(Faulty("document", TEXT, rationale.token_ids, (3,)), writer)
    shown = marks.decode(row.ids, skip_special_tokens=False)
    assert (
        shown
        == marks.decode(writer.prefixes["document"], skip_special_tokens=False)
        + TEXT
        + marks.decode(writer.suffix, skip_special_tokens=False)
        + "<think> fan, fan</think>A fan."
    )
    assert tuple(row.ids[row.written_from :]) == rationale.token_ids


def test_faulty_rationales_are_kept_as_they_were_found(tmp_path: Path, marks: Tokenizer) -> None:
    one = refine.Written(
        Example("query", TEXT), [written(" fan, fan", "A fan.", marks), written(" fan", "A fan.", marks)]
    )
    found = unlearn.faulty([one], marks)
    assert [(row.role, row.text, len(row.places)) for row in found] == [("query", TEXT, 1)]
    refine.save(tmp_path / "faulty.jsonl", found)
    assert unlearn.load(tmp_path / "faulty.jsonl") == found


def test_a_step_takes_the_loss_at_the_faults_and_nowhere_else(marks: Tokenizer) -> None:
    torch.manual_seed(0)
    network, writer = model.build(marks, model.NARROW), Writer(marks, Vocabulary(()))
    rows = [
        Faulty("document", TEXT, written(" fan, fan", "A fan.", marks).token_ids, (3,)),
        Faulty("query", TEXT, written(" moon, fan, fan", "A fan fan.", marks).token_ids, (1, 5)),
        Faulty("document", "A fan.", written(" power", "A fan.", marks).token_ids, (2,)),
    ]
    stage = finetune.Stage(network, tokenizer.mark_id(marks, tokenizer.END_OF_TEXT), crew.Crew(1))
    right = finetune.encode(Example("document", TEXT), finetune.LONG, writer)
    wrong = [finetune.encode_faulty(row, writer) for row in rows]
    _, found = stage.rationale_step(finetune.Rationales("rationale", [right], wrong))

    def by_hand(row: Faulty) -> list[float]:
        encoded, _ = finetune.encode_faulty(row, writer)
        chances = network(input_ids=torch.tensor([encoded.ids])).logits[0].softmax(dim=-1)
        places = [encoded.written_from + place for place in row.places]
        return [-float(torch.log1p(-chances[at - 1, encoded.ids[at]])) for at in places]

    with torch.no_grad():
        one, two, three = sorted(rows, key=lambda row: -len(finetune.encode_faulty(row, writer)[0].ids))
        parts = [by_hand(one) + by_hand(two), by_hand(three)]  # two rows a part, the longest first
    expected = sum(sum(part) / len(part) for part in parts) / len(parts)
    assert found == pytest.approx(expected, rel=0.01)  # products may be in bfloat16
    assert all(parameter.grad is not None for parameter in network.parameters())
