"""What keeps grace-tiny from writing a thing twice: unlikelihood, and learning from its own best rationales."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer

from grace import Grace, Rationale
from grace_training.tiny import crew, export, faults, finetune, loop, model, refine
from grace_training.tiny.pairs import Example, Kind, Pair
from grace_training.tiny.rationales import Target, Vocabulary, Writer

TEXT = "Nations trade with each other. The balance of trade is exports less imports, and the level of trade their sum."
VOCABULARY = Vocabulary([TEXT] + ["the and of in a is to from with each other less their"] * 50)


@pytest.fixture(scope="module")
def marks() -> Tokenizer:
    return Tokenizer.from_file(str(Path(__file__).parents[2] / export.FOLDER / "tokenizer.json"))


def rationale(thinking: str, understanding: str) -> Rationale:
    """As a model writes it that ends by itself."""
    return Rationale(f"<think>{thinking}</think>{understanding}", thinking, understanding, (1, 2), "stop")


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(0, 2**16))
def test_unlikelihood_is_what_its_definition_says(rows: list[list[int]], seed: int):
    next_ids = torch.tensor([token for row in rows for token in row])
    logits = torch.randn(len(next_ids), 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    chances = logits.softmax(dim=-1)
    expected, place = 0.0, 0
    for row in rows:
        for at, token in enumerate(row):
            for before in row[:at]:
                if before != token:
                    expected -= float(torch.log(1 - chances[place, before]))
            place += 1
    found = finetune.unlikelihood(logits, next_ids, [len(row) for row in rows])
    assert float(found) == pytest.approx(expected / len(next_ids), abs=1e-9)


def test_learning_makes_a_repeated_token_less_likely_and_the_next_one_no_less():
    logits = torch.zeros(3, 4, requires_grad=True)
    finetune.unlikelihood(logits, torch.tensor([0, 1, 2]), [3]).backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() == 0  # nothing was written before the first
    assert (logits.grad[2, :2] > 0).all()  # 0 and 1 were written
    assert (logits.grad[2, 2:] < 0).all()


def test_a_rationale_is_put_right_by_leaving_out():
    assert faults.put_right("surprising, trade, trade, Trade, exports", TEXT) == "trade, exports"
    assert faults.put_right("balance of trade, trade, imports, ", TEXT) == "balance of trade, imports"
    assert faults.put_right("card, children", TEXT) == ""


def test_the_best_rationale_has_no_fault_and_names_most():
    poor = rationale("trade", "Nations trade with each other.")
    good = rationale("trade, balance, trade, trade, trade, exports", "The balance of trade is exports less imports.")
    invented = rationale("trade, balance, exports, imports", "Dolphins swim under the golden bridge.")
    stuttering = rationale("trade, balance, exports, imports", "The balance of trade trade.")
    cut_off = Rationale("<think>trade", "trade", "", (1,), "length")
    chosen = refine.best([poor, good, invented, stuttering, cut_off], TEXT, VOCABULARY)
    assert chosen == Target("trade, balance, exports", "The balance of trade is exports less imports.")
    assert refine.best([invented, stuttering, cut_off], TEXT, VOCABULARY) is None


def test_own_rationales_are_kept_as_they_were_chosen(tmp_path: Path):
    examples = [Example("document", TEXT, title="Trade \u2603", written=Target("trade, exports", "Nations trade."))]
    refine.save(tmp_path / "own.jsonl", examples)
    assert refine.load(tmp_path / "own.jsonl") == examples


def test_drift_is_the_share_of_the_squared_length_by_which_the_means_moved():
    taught = torch.zeros(1, 3, 384)
    taught[..., 0] = 2.0
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    moved = taught.clone()
    moved[0, :2, 1] = 1.0  # a quarter of the square
    moved[0, 2] = 100.0  # outside of the mask
    moved[..., 300] = 50.0  # the word part, which is not trained
    assert float(finetune.drift(moved, taught, mask)) == pytest.approx(0.25)
    assert float(finetune.drift(taught, taught, mask)) == 0


def test_pairs_hold_vectors_of_texts_alone_to_the_teachers(marks: Tokenizer):
    torch.manual_seed(0)
    network, teacher = (model.build(marks, model.NARROW) for _ in range(2))
    writer = Writer(marks, VOCABULARY)
    kind = Kind([{}], lambda *_: Pair("trade", Example("document", TEXT), Example("query", TEXT)), 1.0, long=False)

    def step(**options: Any) -> tuple[float, torch.Tensor]:
        stage = finetune.Stage(network, 0, crew.Crew(1), contrastive_weight=0.0, **options)
        batch = finetune.draw_pairs("trade", kind, finetune.PAIRS, writer, np.random.default_rng(0))
        written, _ = stage.pair_step(batch)
        return written, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    free, free_gradient = step()
    same, same_gradient = step(teacher=network)
    held, held_gradient = step(teacher=teacher)
    assert same == pytest.approx(free, abs=1e-3)
    assert torch.nn.functional.cosine_similarity(same_gradient, free_gradient, dim=0) > 0.999
    assert held > free + 0.1
    assert torch.nn.functional.cosine_similarity(held_gradient, free_gradient, dim=0) < 0.999


def test_weights_are_averaged_one_by_one():
    one, two, three = ({"a": torch.tensor([x, 3.0])} for x in (1.0, 3.0, 8.0))
    assert torch.equal(model.average(one, two)["a"], torch.tensor([2.0, 3.0]))
    assert torch.equal(model.average(one, two, three)["a"], torch.tensor([4.0, 3.0]))


def test_an_accelerator_writes_what_is_served(marks: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    weights = {name: weight.float() for name, weight in load_file(export.FOLDER / "model.safetensors").items()}
    writer = Writer(marks, VOCABULARY)
    texts = [TEXT, "A fan turns.", f"{TEXT} {TEXT}", "How do I cancel a card?"]
    monkeypatch.setattr(crew, "on_accelerator", lambda: True)
    monkeypatch.setattr(refine, "SAMPLED", (0.0, 0.9))
    found = refine.write(weights, marks, [Example("query", text) for text in texts], writer)
    with Grace.load(export.FOLDER, engine="transformers", dtype="float32") as grace:
        served = [one.rationale for one in grace.represent(texts, role="query", show_progress=False)]
    assert {one.example.text: one.rationales[0] for one in found} == dict(zip(texts, served, strict=True))
    assert any(one.rationales[1] != one.rationales[0] for one in found)


@pytest.mark.parametrize("readers", [0, 2])
def test_batches_are_drawn_by_the_number_of_their_step(readers: int):
    drawn = loop.drawn(lambda number: [number, number**2], 3, readers)
    assert [next(drawn) for _ in range(5)] == [[n, n**2] for n in range(3, 8)]


def test_weights_of_another_depth_are_taken_on(marks: Tokenizer):
    deep = replace(model.NARROW, layers=6, inner=768)
    weights = model.build(marks, deep).state_dict()
    assert model.restore(marks, weights).config.num_hidden_layers == 6
