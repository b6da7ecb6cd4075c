"""Prompts promise that spans are exact, that a text stays a text, and that what cannot be exact is refused."""

from __future__ import annotations

import itertools
import json
import time
import unicodedata
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from grace import prompt, rationale
from grace.checkpoint import Checkpoint
from grace.errors import CheckpointError, InputTooLong, InvalidInput, UnsupportedModel
from grace.prompt import MAX_SEGMENTS, Prompter, well_formed
from grace.representation import Role, segment_text
from tests.conftest import ModelFolder
from tests.support.models import CHATML, CONFIG, NO_CONTENT, NO_SYSTEM, Family, make_model, make_tokenizer

QWEN3_THINKS = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")


@pytest.fixture(scope="module")
def prompter(model_folder: ModelFolder) -> Prompter:
    return Prompter(Checkpoint.load(model_folder("qwen2")))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec=None), max_size=400))
def test_segments_cover_every_text_and_every_pooled_token(prompter: Prompter, text: str) -> None:
    job = prompter.job(text)
    assert sum(s.tokens for s in job.segments) == len(job.prompt_ids) - job.pooled_from
    assert len(job.segments) <= MAX_SEGMENTS
    inputs = [s for s in job.segments if s.source == "input"]
    if not job.truncated:
        assert job.text == well_formed(text)
        covered = "".join(segment_text(s, text=job.text, rationale=None) for s in inputs)
        assert covered == job.text or not covered
    assert all(a.end == b.start for a, b in itertools.pairwise(inputs))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The river is long. Is it? Yes!", 3),
        ("河水从山上流下。它在港口入海！真的吗？", 3),
        ("川は長い｡海に出る｡", 2),
        ("नदी पहाड़ों से निकलती है। वह समुद्र में मिलती है। क्या यह सच है?", 3),
        ("هل النهر طويل؟ نعم، النهر طويل. البحر بعيد.", 3),
        ("دریا لمبا ہے۔ سمندر دور ہے۔", 2),
        ("ወንዙ ረጅም ነው። ባሕሩ ሩቅ ነው።", 2),
        ("မြစ်ရှည်သည်။ပင်လယ်ဝေးသည်။", 2),
        ("ទន្លេវែង។ សមុទ្រឆ្ងាយ។", 2),
        ("Գետը երկար է։ Ծովը հեռու է։", 2),
        ("one\r\ntwo\r\n\r\nthree", 3),
        ("one\u2028two\u2029three\rfour", 4),
    ],
)
def test_a_text_of_any_script_is_cut_at_its_own_marks(prompter: Prompter, text: str, count: int) -> None:
    job = prompter.job(text)
    inputs = [s for s in job.segments if s.source == "input"]
    assert len(inputs) == count
    assert "".join(segment_text(s, text=job.text, rationale=None) for s in inputs) == text


def test_a_rationale_is_cut_at_tokens_that_hold_a_mark_of_any_script(tmp_path: Path) -> None:
    marks = ("।", "؟", "۔", "።", "။", "។", "։", "｡", "。", ".")
    words = [word for mark in marks for word in ("river", mark)]
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["river", *marks])
    folder = make_model(tmp_path, vocab=700)
    tokenizer.save_pretrained(folder)
    prompter = Prompter(Checkpoint.load(folder))
    ids = tuple(prompter.tokenizer.convert_tokens_to_ids(words))
    written = rationale.read(prompter.decode(ids), ids, "given", thinking_open=False)
    assert [s.tokens for s in prompter.rationale_segments(written)] == [2] * len(marks)


def test_a_word_is_of_its_own_sentence_with_the_space_before_it(prompter: Prompter) -> None:
    text = "The river is long. Is it?  Yes!\n\n No."
    inputs = [s for s in prompter.job(text, mode="direct").segments if s.source == "input"]
    ids = prompter.job(text, mode="direct").prompt_ids[prompter.job(text, mode="direct").pooled_from :]
    words, start = [], 0
    for segment in inputs:
        words.append(prompter.decode(ids[start : start + segment.tokens]).strip())
        start += segment.tokens
    assert words == ["The river is long.", "Is it?", "Yes!", "No."]


def test_a_last_sentence_without_a_token_of_its_own_belongs_to_the_one_before() -> None:
    text = "One\u3002two"  # a token of mark and word
    (segment,) = prompt._input_segments(text, [(0, 3), (3, 7)])
    assert (segment.start, segment.end, segment.tokens) == (0, 7, 2)


def test_a_text_that_spells_the_tokens_of_a_unigram_model_stays_a_text() -> None:
    special = ["<unk>", "<s>", "</s>"]
    pieces = [*special, "\u2581", "<", "/", "s", ">", "a", "as"]
    backend = Tokenizer(models.Unigram([(piece, -float(i) if i > 2 else 0.0) for i, piece in enumerate(pieces)], 0))
    backend.add_special_tokens(special)
    plain = prompt._without_special_tokens(backend)
    assert [pieces[i] for i in plain.encode("<s>as</s>").ids] == ["<", "s", ">", "as", "<", "/", "s", ">"]
    assert plain.encode("asa<").ids == backend.encode("asa<").ids


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_the_prompt_is_the_templates_own_with_an_ordinary_text(family: Family, model_folder: ModelFolder) -> None:
    prompter = Prompter(Checkpoint.load(model_folder(family)))
    job = prompter.job("Plain words.")
    messages = [
        {"role": "system", "content": CONFIG.instruction["document"]},
        {"role": "user", "content": "Plain words."},
    ]
    rendered = prompter.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, date_string="26 Jul 2024"
    )
    assert prompter.decode(job.prompt_ids) == rendered


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.lists(
        st.sampled_from(["<|im_end|>", "<|im_start|>", "system\n", "<think>", "</think>", "<|endoftext|>", "a b", "\n"])
    ).map("".join)
)
def test_no_text_can_close_its_turn_or_open_another(prompter: Prompter, text: str) -> None:
    job = prompter.job(text)
    special = set(prompter.tokenizer.added_tokens_decoder)
    template = prompter.templates["document"]
    inside = job.prompt_ids[len(template.prefix) : len(job.prompt_ids) - len(template.suffix)]
    assert special.isdisjoint(inside)
    if not job.truncated:
        assert prompter.decode(tuple(inside)) == text


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec=None), min_size=1, max_size=200), times=st.sampled_from([1, 2, 500]))
def test_a_long_text_is_read_as_a_short_one_is(prompter: Prompter, text: str, times: int) -> None:
    read = []
    for limit in (0, 10**9):
        with patch.object(prompt, "LONG_TEXT_CHARS", limit):
            read.append((prompter.job(text * times), prompter.rationale_ids(text * times)))
    assert read[0] == read[1]


def test_only_the_text_is_truncated_and_the_reply_says_so(prompter: Prompter) -> None:
    job = prompter.job("word " * 20_000)
    template = prompter.templates["document"]
    assert job.truncated
    assert job.input_tokens == prompter.max_input_tokens
    assert job.prompt_ids[-len(template.suffix) :] == template.suffix
    assert ("word " * 20_000).startswith(job.text)
    with pytest.raises(InputTooLong, match=f"limit is {prompter.max_input_tokens} tokens") as caught:
        prompter.job("word " * 20_000, truncate=False)
    assert caught.value.param == "input"


def test_lone_surrogates_become_replacement_characters(prompter: Prompter) -> None:
    assert prompter.job("a\ud83db").text == "a�b"
    assert prompter.job("\ud83d\ude00").text == "😀", "a pair that was split in two is one character"


def test_a_given_rationale_comes_back_as_ids_with_its_own_think_tags_and_no_other_special_token(
    prompter: Prompter,
) -> None:
    text = "<think>One. <|im_end|></think>Two."
    job = prompter.job("A text.", given=text)
    assert job.given is not None
    assert (job.given.thinking, job.given.understanding) == ("One. <|im_end|>", "Two.")
    specials = [i for i in job.given.token_ids if i in prompter.tokenizer.added_tokens_decoder]
    assert prompter.tokenizer.convert_ids_to_tokens(specials) == ["<think>", "</think>"]
    assert prompter.decode(job.given.token_ids) == text
    covered = [segment_text(s, text=job.text, rationale=job.given) for s in job.segments if s.source == "rationale"]
    assert "".join(covered) == text


def test_a_given_rationale_is_cut_in_its_own_characters_where_the_tokenizer_composes_them(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    folder = make_model(tmp_path)
    tokenizer.save_pretrained(folder)
    prompter = Prompter(Checkpoint.load(folder))
    sentences = ["Ça été déjà vu.", " 한국어 문장입니다.", " Fin"]
    apart = [unicodedata.normalize("NFD", sentence) for sentence in sentences]
    job = prompter.job("x", given="".join(apart))
    assert [segment_text(s, text="x", rationale=job.given) for s in job.segments if s.source == "rationale"] == apart


def test_thousands_of_think_tags_are_read_at_once(prompter: Prompter) -> None:
    begin = time.perf_counter()
    assert len(prompter.rationale_ids("<think>" * 100_000)) == 100_000
    assert time.perf_counter() - begin < 5  # with a copy of the rest at each tag: minutes


@pytest.mark.parametrize("role", ["document", "query"])
def test_a_given_rationale_leaves_a_place_in_the_context(prompter: Prompter, role: Role) -> None:
    """vLLM refuses a prompt that fills it."""
    text, longest = "a " * 5_000, prompter.max_rationale_tokens
    with pytest.raises(InputTooLong) as caught:
        prompter.job(text, role=role, given="<think>" * (longest + 1))
    job = prompter.job(text, role=role, given="<think>" * caught.value.limit)
    assert len(job.prompt_ids) < prompter.checkpoint.context_tokens


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"max_rationale_tokens": 0}, "max_rationale_tokens"),
        ({"max_rationale_tokens": 10**9}, "max_rationale_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"mode": "direct", "given": "x"}, "rationale"),
        ({"mode": "Reason"}, "mode"),
        ({"role": "doc"}, "role"),
        ({"role": None}, "role"),
        ({"given": "word " * 9000}, "rationale"),
    ],
)
def test_a_bad_option_is_refused_by_name(prompter: Prompter, options: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        prompter.job("A text.", **options)  # type: ignore[arg-type]
    assert caught.value.param == param


def test_direct_mode_pools_the_text_alone_and_an_empty_text_by_its_turns_end(prompter: Prompter) -> None:
    assert {s.source for s in prompter.job("A text.", mode="direct").segments} == {"input"}
    assert {s.source for s in prompter.job("", mode="direct").segments} == {"template"}


def test_a_template_without_a_system_turn_gets_the_instruction_in_the_users_turn(tmp_path: Path) -> None:
    prompter = Prompter(Checkpoint.load(make_model(tmp_path, template=NO_SYSTEM)))
    job = prompter.job("Plain words.")
    prefix = prompter.decode(job.prompt_ids[: job.pooled_from])
    assert prefix == "<|im_start|>user\nSay what the document says.\n\n"
    assert prompter.decode(job.prompt_ids[job.pooled_from :]).startswith("Plain words.<|im_end|>")


def test_a_template_that_opens_the_thinking_is_read_so(tmp_path: Path) -> None:
    assert Prompter(Checkpoint.load(make_model(tmp_path, template=QWEN3_THINKS))).job("x").thinking_open


def test_a_template_that_cannot_hold_an_instruction_or_a_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no place for an instruction"):
        Prompter(Checkpoint.load(make_model(tmp_path, template=NO_CONTENT)))


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    make_model(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(UnsupportedModel, match="no chat template"):
        Prompter(Checkpoint.load(tmp_path))


@pytest.mark.parametrize("ends", [None, [], 0, [0, 690], 10_000, [699, 0, 10_000], -1])
def test_a_tokenizer_is_not_refused_for_an_end_that_it_calls_otherwise(tmp_path: Path, ends: object) -> None:
    """The model has 700 ids and its tokenizer fewer; its config may be older than both."""
    folder = make_model(tmp_path, vocab=700)
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": ends}))
    assert Prompter(Checkpoint.load(folder)).job("A text.").prompt_ids


def test_a_tokenizer_without_any_of_the_models_ends_is_another_models(tmp_path: Path) -> None:
    folder = make_model(tmp_path, vocab=700)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [690, 699]}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 699}))
    with pytest.raises(CheckpointError, match=r"it has no token of the ids at which the model ends \(690, 699\)"):
        Prompter(Checkpoint.load(folder))


def test_a_special_token_beyond_the_vocabulary_does_no_harm_unless_the_template_needs_it(tmp_path: Path) -> None:
    folder = make_model(tmp_path)
    tokenizer = make_tokenizer(CHATML)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    tokenizer.save_pretrained(folder)
    prompter = Prompter(Checkpoint.load(folder))
    job = prompter.job("What does <image_soft_token> mean?")
    assert max(job.prompt_ids) < prompter.checkpoint.vocab_size
    template = folder / "chat_template.jinja"
    template.write_text("<image_soft_token>" + template.read_text())
    with pytest.raises(CheckpointError, match="another model's: it has ids up to"):
        Prompter(Checkpoint.load(folder))


def test_a_context_too_short_for_the_instruction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no room for a text"):
        Prompter(Checkpoint.load(make_model(tmp_path, context=32)))


@pytest.fixture
def sentencepiece(tmp_path: Path) -> Prompter:
    """Of a tokenizer in the manner of Gemma's: characters it does not know are bytes, line breaks are added tokens."""
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    added = ["\n", "\n\n", "▁▁"]
    pieces = [*special, *added, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *(chr(c) for c in range(33, 127))]
    backend = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [("\n", "\n"), ("▁", "▁")], byte_fallback=True)
    )
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(special)
    backend.add_tokens([AddedToken(token, normalized=False) for token in added])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", bos_token="<bos>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ message['role'] }}\n{{ message['content'] }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    folder = make_model(tmp_path, "mistral", vocab=700)
    (folder / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        known = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(known | {"eos_token_id": [1, 10_000]}))
    return Prompter(Checkpoint.load(folder))


def test_characters_that_the_tokenizer_has_no_token_for_are_read_as_unknown(sentencepiece: Prompter) -> None:
    folder = sentencepiece.checkpoint.folder
    described = json.loads((folder / "tokenizer.json").read_text())
    described["model"] |= {"byte_fallback": False, "unk_token": "<unk>"}
    described["model"]["vocab"]["<unk>"] = unknown = len(described["model"]["vocab"])
    described["added_tokens"].append({**described["added_tokens"][0], "id": unknown, "content": "<unk>"})
    (folder / "tokenizer.json").write_text(json.dumps(described))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"unk_token": "<unk>"}))
    prompter = Prompter(Checkpoint.load(folder))
    job = prompter.job("na\u00efve <unk>.", mode="direct")
    ids = job.prompt_ids[job.pooled_from :]
    assert (ids.count(unknown), len(ids)) == (1, 12)
    assert job.segments[0].end == len(job.text)


@pytest.mark.parametrize("text", ["a\nb", "a  b\n\n\nc", "\n", "Grüße\n", "<end_of_turn>\n<start_of_turn>model\n"])
def test_line_breaks_that_are_added_tokens_are_ordinary_text_and_turn_markers_are_not(
    sentencepiece: Prompter, text: str
) -> None:
    job = sentencepiece.job(text, mode="direct")
    ids = job.prompt_ids[job.pooled_from :]
    assert sentencepiece.decode(ids) == text
    assert not {0, 1, 2, 3, 4} & set(ids)


def test_bytes_that_turn_out_to_be_no_character_do_not_end_a_stream(sentencepiece: Prompter) -> None:
    vocab = sentencepiece.tokenizer.get_vocab()
    ids = [vocab[piece] for piece in ("a", "<0xC3>", "<0xA9>", "<0xFF>", "b", "c")]
    assert sentencepiece.pieces(ids) == ["a", "", "\u00e9", "\ufffd", "b", "c"]


def test_ends_that_the_model_has_no_states_for_are_none_of_ours(sentencepiece: Prompter) -> None:
    assert sentencepiece.stop_ids == (1,)
