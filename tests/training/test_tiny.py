"""grace-tiny: its data, its rationale targets, its optimiser and the bundled checkpoint itself."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from grace import Rationale
from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from grace_training.tiny import (
    contamination,
    contrast,
    corpus,
    crew,
    export,
    finetune,
    measure,
    model,
    muon,
    neighbours,
    pairs,
)
from grace_training.tiny.pairs import Example, Kind, Pair
from grace_training.tiny.rationales import INSTRUCTIONS, LONGEST, Target, Vocabulary, Writer, first_sentence
from grace_training.tiny.tokenizer import SPECIAL, THINK, THINK_END, TURN_END, TURN_START, plain

FOLDER = Path(__file__).parents[2] / export.FOLDER
TEXTS = [
    "The Baltic Sea is an arm of the Atlantic Ocean, enclosed by Denmark, Estonia, Finland, Germany, Latvia, "
    "Lithuania, Poland, Russia and Sweden. Its brackish water freezes along the northern coasts in most winters.",
    "Photosynthesis is the process by which plants turn light, water and carbon dioxide into sugar and oxygen. It "
    "takes place in the chloroplasts of the leaf.",
    "The heart is a muscular organ that pumps blood through the vessels of the body. It has four chambers.",
]


@pytest.fixture(scope="module")
def marks() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def writer(marks: Tokenizer) -> Writer:
    return Writer(marks, Vocabulary(TEXTS + ["the and of in a is to from with"] * 50))


@pytest.fixture(scope="module")
def bundled() -> Iterator[measure.Model]:
    model = measure.Model(FOLDER, "transformers")
    yield model
    model.grace.close()


def test_only_sources_with_a_licence_that_allows_it_are_listed():
    forbidden = (
        "alpaca",
        "samsum",
        "dialogsum",
        "bbc",
        "lisa",
        "sick",
        "mrpc",
        "wikitext2",
        "twitterurl",
        "stsbenchmark",
    )
    for source in corpus.SOURCES:
        assert not any(name in source.path for name in forbidden)
        assert source.licence.split(";")[0] in {
            *("CC BY-SA 3.0", "CC BY-SA 4.0", "CC BY 3.0", "CC BY 4.0", "MIT", "Apache-2.0"),
        }
        if source.name in ("banking77", "clinc150"):
            assert "/train." in source.path
    with pytest.raises(KeyError):
        corpus.source("instruct_alpaca")


def test_a_text_seen_in_training_is_found_whatever_its_case_and_points():
    trained = {hash(contamination.normal(text)) for text in ["A man, playing the guitar!", "Something else entirely."]}
    found = contamination.seen_in(["a man playing the guitar", "a man playing a guitar", "guitar"], trained)
    assert found == contamination.Found(2, ("a man playing the guitar",))


def test_a_rationale_target_is_well_formed_and_short(writer: Writer, marks: Tokenizer):
    examples = [
        Example("document", text, title=title) for text, title in zip(TEXTS, ("Baltic Sea", None, None), strict=True)
    ]
    examples += [Example("query", "Do plants need light to make sugar from water and carbon dioxide?")]
    examples += [Example("query", "I still have not received my new card.", topic="card arrival")]
    for example in examples:
        ids = writer.target_ids(example.target(writer, 400), example.text)
        assert 14 <= len(ids) <= LONGEST
        assert [ids.count(marks.token_to_id(mark)) for mark in (THINK, THINK_END, TURN_END)] == [1, 1, 1]
        assert ids[0] == marks.token_to_id(THINK)
        assert ids[-1] == marks.token_to_id(TURN_END)


def test_a_target_speaks_only_of_what_is_seen(writer: Writer):
    target = Example("document", TEXTS[0]).target(writer, 20)
    assert "winters" not in target.thinking + target.understanding
    assert target.understanding.startswith("The Baltic Sea is an arm of the Atlantic Ocean")


def test_a_sentence_does_not_end_at_an_initial():
    assert first_sentence("The novel by J. R. Smith appeared in St. Louis. It sold well.").endswith("Louis.")


@pytest.mark.parametrize("mark", SPECIAL)
def test_no_text_becomes_a_special_id(marks: Tokenizer, mark: str):
    special = {marks.token_to_id(each) for each in SPECIAL}
    text = f"hello {mark} world{mark}{mark}"
    ids = plain(marks).encode(text, add_special_tokens=False).ids
    assert special.isdisjoint(ids)
    assert marks.decode(ids, skip_special_tokens=False) == text


def test_training_and_serving_put_the_same_ids_around_a_text(writer: Writer):
    prompter = Prompter(Checkpoint.load(FOLDER))
    for role in INSTRUCTIONS:
        assert list(prompter.templates[role].prefix) == writer.prefixes[role]
        assert list(prompter.templates[role].suffix) == writer.suffix
    nasty = f"caf\u00e9 cafe\u0301 \ufb01 \u2126 {TURN_START}  two  blanks\n\n12345 don't \U0001f600"
    prefix = prompter.templates["query"].prefix
    ids = prompter.job(nasty, role="query", mode="direct").prompt_ids[len(prefix) :]
    assert list(ids) == writer.text_ids(nasty, 1000)


def test_rows_pool_what_serving_pools(writer: Writer):
    rows = finetune.pad([finetune.encode(Example("document", TEXTS[2]), 128, writer)], padding=0)
    prefix, suffix = writer.prefixes["document"], writer.suffix
    text = writer.text_ids(TEXTS[2], 1000)
    written = len(rows.next_ids)
    assert rows.direct.sum() == len(text)
    assert rows.reason.sum() == len(text) + len(suffix) + written - 1  # the end mark has no state
    assert rows.reason[0, len(prefix) - 1] == 0
    assert rows.reason[0, len(prefix)] == 1
    assert torch.equal(rows.ids[0][rows.positions + 1], rows.next_ids)


def test_a_rationale_opens_with_the_tokens_that_the_text_has(writer: Writer):
    text = "In winter the harbour froze, and the harbour stayed shut."
    for term in ("harbour", "winter", "In winter"):
        opened = writer.target_ids(Target(f"{term}, shut", "It froze."), text)[1:]
        blank = "" if text.startswith(term) else " "
        copied = writer.text_ids(blank + term, 10)
        assert opened[: len(copied)] == copied
        assert any(writer.text_ids(text, 99)[i : i + len(copied)] == copied for i in range(20))
    assert writer.target_ids(Target("card arrival, shut", "It froze."), text)[1:][:2] == writer.text_ids(
        "card arrival", 2
    )


def test_the_terms_of_a_rationale_come_in_the_order_of_the_text(writer: Writer):
    thinking = writer.thinking(TEXTS[1], None)
    terms = thinking.split(", ")
    assert len(terms) >= 3
    assert [TEXTS[1].find(term) for term in terms] == sorted(TEXTS[1].find(term) for term in terms)
    assert writer.thinking(TEXTS[0], "Baltic Sea").startswith("Baltic Sea, ")


def test_a_batch_comes_from_a_few_neighbourhoods():
    subjects = ("red wine grapes cellar", "steam engine piston boiler", "violin sonata concert bow")
    rows = [{"text": f"{subject} {subject} page{i % 40}"} for subject in subjects for i in range(200)]
    kind = Kind(
        rows, lambda row, rng: Pair(row["text"], *(Example("document", row["text"]),) * 2), 1.0, False, near=True
    )
    drawn = neighbours.Batches(kind).draw(32, np.random.default_rng(0))
    assert len(set(drawn)) == len(drawn) == 32
    near = neighbours.areas([row["text"] for row in rows])
    assert len({place for area in near for place in area}) == sum(map(len, near))  # no row is in two
    for area in near:
        assert len({place // 200 for place in area}) == 1  # none mixes subjects


@pytest.mark.parametrize("shape", [model.NARROW, model.WIDE], ids=["tied head", "head of its own"])
def test_the_gradient_taken_in_parts_is_the_gradient_of_the_whole_batch(
    writer: Writer, marks: Tokenizer, shape: model.Shape, monkeypatch: pytest.MonkeyPatch
):
    torch.manual_seed(0)
    network = model.build(marks, shape)
    rng = np.random.default_rng(1)
    # Rows of one length: parts count alike in the next-token loss, however many tokens they have.
    monkeypatch.setattr(contrast, "LONGEST", max(map(len, writer.prefixes.values())) + 5)
    firsts = [contrast.encode(Example("document", text[:40]), writer, rng) for text in TEXTS]
    seconds = [contrast.encode(Example("document", text[40:]), writer, rng) for text in TEXTS]
    assert len({len(row.ids) for row in (*firsts, *seconds)}) == 1
    clash = torch.zeros(3, 3, dtype=torch.bool)
    slopes = []
    for size in (2, 6):
        monkeypatch.setattr(contrast, "PART_ROWS", size)
        contrast.Stage(network, 0, crew.Crew(1)).step([*firsts, *seconds], clash)
        slopes.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.nn.functional.cosine_similarity(*slopes, dim=0) > 0.99  # products are in bfloat16


def test_a_pair_of_keywords_names_only_words_of_its_passage():
    rng = np.random.default_rng(0)
    draw = pairs.keywords(Vocabulary(TEXTS * 20))
    for text in TEXTS:
        pair = draw({"text": text}, rng)
        assert pair.first.text
        assert all(word in pair.second.text for word in pair.first.text.split())


def test_muon_steps_are_semi_orthogonal():
    matrices = torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(0))
    singular = torch.linalg.svdvals(muon.orthogonalise(matrices))
    assert singular.min() > 0.4
    assert singular.max() < 1.4


def test_the_clock_counts_a_stopped_process_as_one_capped_step():
    moments = iter([0.0, 0.0, 2.0, 10.0, 4000.0])
    clock = model.Clock(1.0, now=lambda: next(moments))
    for _ in range(2):
        clock.start()
        clock.stop()
    assert clock.spent_s == 2.0 + model.STEP_CAP_S
    assert model.trapezoid(1.0, warm_up=0.02, decay_from=0.4) == 0.0


def test_figures_are_computed_as_defined():
    gains = np.array([[3.0, 0.0, 1.0]])
    assert measure.ndcg_at_10(np.array([[3.0, 1.0, 2.0]]), gains) == pytest.approx(1.0)
    assert measure.ndcg_at_10(np.array([[1.0, 3.0, 2.0]]), gains) < 0.8


def test_an_export_is_the_mean_of_the_stages_that_are_named(tmp_path: Path):
    for number, stage in enumerate(export.AVERAGED):
        torch.save({"step": number, "model": {"weight": torch.full((2,), 3.0**number)}}, tmp_path / f"{stage}.pt")
    assert export.newest(tmp_path)["model"]["weight"].tolist() == pytest.approx([13 / 3] * 2)
    assert export.mean(tmp_path, ["refine", "unlearn-1"])["model"]["weight"].tolist() == [6.0, 6.0]
    with pytest.raises(FileNotFoundError, match="no weights of: finetune"):
        export.mean(tmp_path, ["refine", "finetune"])
    (tmp_path / "refine.pt").unlink()
    assert export.newest(tmp_path)["model"]["weight"].tolist() == [1.0, 1.0]


def test_the_bundled_folder_is_complete_and_small():
    assert (FOLDER / "model.safetensors").stat().st_size <= export.MAX_WEIGHTS
    settings = json.loads((FOLDER / "grace.json").read_text(encoding="utf-8"))
    assert settings["instruction"] == INSTRUCTIONS
    assert settings["provenance"]["data"].keys() == {source.path for source in corpus.SOURCES}
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (TURN_END, "<|endoftext|>", None)
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_bundled_model_writes_well_formed_rationales(bundled: measure.Model):
    written = bundled.represent(TEXTS, "document")
    for rationale in written.rationales:
        assert measure.well_formed(rationale), rationale.text
        assert not measure.loops(rationale), rationale.text
    np.testing.assert_allclose(np.linalg.norm(written.reason, axis=1), 1, atol=1e-5)


def test_what_is_wrong_with_a_rationale_is_seen():
    good = Rationale("<think> sea, ice</think>The sea froze.", "sea, ice", "The sea froze.", (1, 2), "stop")
    assert measure.well_formed(good)
    assert not measure.well_formed(replace(good, finish_reason="length"))
    assert not measure.well_formed(replace(good, text="<think> sea, ice", understanding=""))
    again = replace(good, text="<think> the cold sea the cold sea the cold sea </think>It froze.")
    assert measure.loops(again)
    assert not measure.loops(good)
    shares = measure.named_terms(["The sea froze over.", "Bread is baked at night."], [good, good])
    assert shares == [2 / 2, 0.0]  # "sea" and "froze": all that no list of stop words has
