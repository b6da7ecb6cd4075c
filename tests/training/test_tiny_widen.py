"""Word vectors built into a language model: what it wrote it writes, and its states carry the words as well."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

from grace_training.tiny import crew, export, loop, model, muon, widen, words

FOLDER = Path(__file__).parents[2] / export.FOLDER


@pytest.fixture(scope="module")
def marks() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def narrow(marks: Tokenizer) -> widen.Weights:
    """A model whose every weight is away from where it started, biases and norms too."""
    torch.manual_seed(0)
    network = model.build(marks, model.NARROW)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return {name: weight.clone() for name, weight in network.state_dict().items()}


def open_weights(marks: Tokenizer, shape: model.Shape, weights: widen.Weights) -> nn.Module:
    network = model.build(marks, shape)
    network.load_state_dict(weights)
    return network.eval()


def test_a_widened_model_predicts_what_the_narrow_one_did(marks: Tokenizer, narrow: widen.Weights):
    ids = torch.randint(10, 8000, (3, 40), generator=torch.Generator().manual_seed(1))
    square = widen.state_square(marks, narrow, ids)
    table = torch.randn(8192, words.WIDTH, generator=torch.Generator().manual_seed(2))
    # Without a word part the norms see the same numbers and zeros, and differ by their epsilon alone.
    silent = widen.widened(narrow, torch.full_like(table, 1e-9), square)
    silent["model.embed_tokens.weight"][:, model.NARROW.hidden :] = 0
    loud = widen.widened(narrow, table, square)
    with torch.inference_mode():
        before = open_weights(marks, model.NARROW, narrow)(input_ids=ids).logits
        exact = open_weights(marks, model.WIDE, silent)(input_ids=ids).logits
        after = open_weights(marks, model.WIDE, loud)(input_ids=ids).logits
    torch.testing.assert_close(exact, before, atol=5e-3, rtol=0)
    assert torch.nn.functional.cosine_similarity(after, before, dim=-1).min() > 0.99


def test_training_changes_what_a_widened_model_adds_to_its_word_vectors_and_not_them(
    marks: Tokenizer, narrow: widen.Weights
):
    ids = torch.randint(10, 8000, (2, 30), generator=torch.Generator().manual_seed(1))
    table = torch.randn(8192, words.WIDTH, generator=torch.Generator().manual_seed(2))
    network = model.build(marks, model.WIDE)
    network.load_state_dict(widen.widened(narrow, table, widen.state_square(marks, narrow, ids)))
    optimisers = muon.Optimisers(network, crew.Crew(1), matrix_lr=0.01, other_lr=0.002, decay=0.01)
    with torch.inference_mode():
        before = model.states(network, ids)
    for _ in range(3):
        network(input_ids=ids, labels=ids).loss.backward()
        widen.spare_words(network)
        optimisers.step(1.0)
    with torch.inference_mode():
        after = model.states(network, ids)
    words_before, words_after = before[..., model.NARROW.hidden :], after[..., model.NARROW.hidden :]
    assert torch.nn.functional.cosine_similarity(words_after, words_before, dim=-1).min() > 0.9999
    rest = torch.nn.functional.cosine_similarity(after, before, dim=-1)
    assert rest.max() < 0.9999


def test_the_states_of_a_widened_model_hold_the_word_vectors(marks: Tokenizer, narrow: widen.Weights):
    ids = torch.randint(10, 8000, (2, 30), generator=torch.Generator().manual_seed(1))
    table = torch.randn(8192, words.WIDTH, generator=torch.Generator().manual_seed(2))
    wide = widen.widened(narrow, table, widen.state_square(marks, narrow, ids))
    with torch.inference_mode():
        found = model.states(open_weights(marks, model.WIDE, wide), ids)[..., model.NARROW.hidden :]
    assert torch.nn.functional.cosine_similarity(found, table[ids], dim=-1).min() > 0.9999


def test_a_table_means_the_rows_of_a_text():
    table = nn.EmbeddingBag(10, 4, mode="mean")
    found = words.vectors(table, [[1, 2, 2], [3], [4, 5]])
    expected = torch.stack([table.weight[ids].mean(0) for ids in ([1, 2, 2], [3], [4, 5])])
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


class Counter:
    """Counts its steps, and can be saved."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def state_dict(self) -> list[int]:
        return self.steps

    def load_state_dict(self, state: list[int]) -> None:
        self.steps = list(state)


def test_a_stage_goes_on_where_it_was_and_its_rate_ends_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    moments = iter(range(0, 100_000, 3))  # each look at the clock is three seconds later
    monkeypatch.setattr(model.Clock.__init__, "__defaults__", (0.0, lambda: float(next(moments))))
    counted, shares = Counter(), []

    def step(number: int, progress: float) -> dict[str, float]:
        counted.steps.append(number)
        shares.append(progress)
        return {"loss": 1.0}

    loop.train(tmp_path / "stage.pt", {"counted": counted}, 0.2, step)
    first = list(counted.steps)
    again, counted = counted, Counter()
    loop.train(tmp_path / "stage.pt", {"counted": counted}, 0.4, step)
    assert first == again.steps == [0, 1, 2, 3]
    assert counted.steps == [0, 1, 2, 3, 4, 5, 6, 7]
    assert shares[:5] == [0.0, 0.25, 0.5, 0.75, 0.5]
