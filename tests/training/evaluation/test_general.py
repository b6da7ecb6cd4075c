"""`grace-eval general` from local files, with the bundled model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grace import Grace
from grace.checkpoint import Checkpoint
from grace.representation import Rationale
from grace_training.evaluation import cli, general_written
from grace_training.evaluation.cli import main
from grace_training.evaluation.general_lm import LanguageModel
from grace_training.evaluation.general_tasks import TASKS
from grace_training.evaluation.report_resample import score
from grace_training.evaluation.results import Run, read_items, read_run, runs
from tests.support.forked import forked_script
from tests.training.evaluation.test_general_data import ROWS, write

TEXTS = (
    "The river rises in the hills and meets the sea after three towns.",
    "A guild of masons built the bridge in 1432, and it still stands.",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("general")
    for name, row in ROWS.items():
        if name not in ("text", "triviaqa"):
            write(folder, name, row)
    write(folder, "fever", ROWS["fever"], {"claim": "Fish live on the moon.", "label": "REFUTES"})
    write(folder, "text", *({"text": text} for text in TEXTS))
    write(folder, "summaries", {"text": TEXTS[0] + " " + TEXTS[1], "summary": "A river and a bridge."})
    return folder


def arguments(data: Path, out: Path, backend: str, *more: str) -> list[str]:
    return ["general", "--data", str(data), "--out", str(out), "--backend", backend, "--max-tokens", "12", *more]


def only_run(out: Path) -> tuple[Path, Run]:
    (found,) = runs(out)
    return found


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert main(arguments(data, out, "transformers", "--run-generated-code")) == 0
    return out


def test_every_task_with_a_file_gets_a_score_and_its_items(done: Path) -> None:
    path, run = only_run(done)
    assert set(run.expected) == set(TASKS) - {"triviaqa"}
    assert {record.task for record in run.tasks if record.status == "done"} == set(run.expected)
    for record in run.tasks:
        items = read_items(path, record.task)
        assert items is not None
        assert score(items) == pytest.approx(record.score)
        assert record.samples == sum(len(g.values) or len(g.predicted["nats"]) for g in items.groups)
        assert len(set(items.groups[0].ids)) == record.samples


def test_the_run_says_how_it_was_asked(done: Path) -> None:
    _, run = only_run(done)
    assert (run.row, run.backbone, run.representation, run.benchmark) == ("base", "grace-tiny", None, "general")
    assert run.settings["backend"] == "transformers"
    assert run.settings["chat_template"] is True
    assert run.settings["max_tokens"] == 12
    assert run.settings["generated_code"]
    assert len(run.samples) == 3  # two texts, one to summarise
    assert run.rationale_tokens
    assert max(sample.tokens for sample in run.samples) <= 12


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_what_is_written_is_written_in_the_type_that_the_record_names(
    data: Path, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def load(model: str, **options: object) -> None:
        asked.update(options)
        raise ImportError("no module named vllm")

    monkeypatch.setattr(Grace, "load", load)
    assert main(arguments(data, tmp_path, "transformers", "--tasks", "rationales", "--dtype", dtype)) == 1
    assert asked == {"engine": "transformers"} | ({} if dtype == "auto" else {"dtype": dtype})
    assert only_run(tmp_path)[1].settings["dtype"] == dtype


def test_what_is_there_is_not_measured_again(data: Path, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = only_run(done)[1].tasks
    assert main(arguments(data, done, "transformers", "--run-generated-code")) == 0
    assert only_run(done)[1].tasks == before
    assert "grace-eval: " not in capsys.readouterr().err  # no task said that it was done


def test_perplexity_is_that_of_the_model(done: Path, data: Path) -> None:
    """The sum over tokens of a forward pass over the text, begun with the token lm-eval begins with."""
    folder = Checkpoint.load().folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    nats, tokens = 0.0, 0
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[begin, *ids]])).logits[0, :-1]
        nats += torch.nn.functional.cross_entropy(logits, torch.tensor(ids), reduction="sum").item()
        tokens += len(ids)
    record = only_run(done)[1].record("perplexity")
    assert record is not None
    assert record.score == pytest.approx(math.exp(nats / tokens), rel=1e-4)


def test_the_verdict_on_a_claim_is_the_likelier_word_after_the_chat_prompt(done: Path) -> None:
    folder = Checkpoint.load().folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    right = []
    for claim, label in (("Snow is white.", "true"), ("Fish live on the moon.", "false")):
        asked = [{"role": "user", "content": f"Is the following claim true or false?\nClaim: {claim}\nAnswer:"}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        given = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        likelihood = {}
        for word in ("true", "false"):
            whole = tokenizer(prompt + word, add_special_tokens=False)["input_ids"]
            assert whole[: len(given)] == given
            with torch.inference_mode():
                logs = model(input_ids=torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
            likelihood[word] = sum(logs[i - 1, whole[i]].item() for i in range(len(given), len(whole)))
        right.append(max(likelihood, key=lambda word: likelihood[word]) == label)
    record = only_run(done)[1].record("fever")
    assert record is not None
    assert record.score == pytest.approx(sum(right) / 2)


def test_generated_code_is_not_run_unasked_and_the_task_fails_by_name(data: Path, tmp_path: Path) -> None:
    assert main(arguments(data, tmp_path, "transformers", "--tasks", "humaneval")) == 1
    record = only_run(tmp_path)[1].record("humaneval")
    assert record is not None
    assert (record.status, record.score) == ("failed", None)
    assert "--run-generated-code" in (record.reason or "")


def test_what_is_done_is_kept_when_it_cannot_be_asked_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code is not allowed this time, a file was moved: neither is a reason against what was measured."""
    own, out = tmp_path / "data", tmp_path / "out"
    own.mkdir()
    for name in ("humaneval", "fever"):
        shutil.copy(data / f"{name}.jsonl", own)
    asked = arguments(own, out, "transformers", "--tasks", "humaneval,fever")
    assert main([*asked, "--run-generated-code"]) == 0
    path, before = only_run(out)
    capsys.readouterr()

    (own / "fever.jsonl").rename(own / "moved.jsonl")
    assert main(asked) == 0
    assert only_run(out)[1].tasks == before.tasks
    assert all(read_items(path, task) is not None for task in before.expected)
    said = capsys.readouterr().err
    assert "humaneval: kept as it was measured before; now: runs code that the model wrote" in said
    assert "fever: kept as it was measured before; now: " in said

    assert main([*asked, "--overwrite"]) == 1
    assert {record.status for record in only_run(out)[1].tasks} == {"failed"}


def test_a_task_that_fails_does_not_take_the_others_along(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = LanguageModel.measure

    def broken(self: LanguageModel, task: object, *args: object, **options: object) -> object:
        if task is TASKS["gsm8k"]:
            raise RuntimeError("out of memory\nand a long trace")
        return measure(self, task, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "measure", broken)
    assert main(arguments(data, tmp_path, "transformers", "--tasks", "gsm8k,triviaqa,fever")) == 1
    run = only_run(tmp_path)[1]
    said = {record.task: record.reason for record in run.tasks}
    assert said["gsm8k"] == "RuntimeError: out of memory"
    assert "no file triviaqa*.jsonl" in (said["triviaqa"] or "")
    assert said["fever"] is None


def test_other_rows_are_measured_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for claim in ("Snow is white.", "Fish live on the moon."):
        write(tmp_path, "fever", {"claim": claim, "label": "SUPPORTS"})
        main(arguments(tmp_path, out, "transformers", "--tasks", "fever"))
        path, run = only_run(out)
        items = read_items(path, "fever")
        assert items is not None
        if claim == "Snow is white.":
            before = items.groups[0].ids, run.settings["rows"]["fever"]
    assert items.groups[0].ids != before[0]
    assert run.settings["rows"]["fever"] != before[1]


def test_a_model_that_cannot_be_loaded_fails_every_task_with_the_reason(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ImportError("no module named vllm")

    monkeypatch.setattr("grace_training.evaluation.general_lm._transformers", broken)
    assert main(arguments(data, tmp_path, "transformers", "--tasks", "fever,bbh")) == 1
    assert {r.reason for r in only_run(tmp_path)[1].tasks} == {"ImportError: no module named vllm"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tasks", "gsm9k"], "no task gsm9k"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--tasks", "perplexity,rationales", "--dtype", "float16"], "--dtype float16: the engine for rationales has"),
        (["--model", "no/such/model"], "no/such/model"),
    ],
)
def test_what_cannot_be_done_is_said(
    data: Path, tmp_path: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(data, tmp_path, "transformers", *options)) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "thinking", "understanding", "ended", "well"),
    [
        ("<think>a</think>b", "a", "b", True, True),
        ("a</think>b", "a", "b", True, True),  # a template may open the tag
        ("<think>a</think>b", "a", "b", False, False),
        ("<think>a</think>", "a", "", True, False),
        ("<think></think>b", "", "b", True, False),
        ("b", "", "b", True, False),
        ("<think>a</think>b</think>", "a", "b</think>", True, False),
    ],
)
def test_well_formed_is_thought_through_understood_and_ended(
    text: str, thinking: str, understanding: str, ended: bool, well: bool
) -> None:
    rationale = Rationale(text, thinking, understanding, (1, 2), "stop" if ended else "length")
    assert general_written.well_formed(rationale) is well


def test_rouge_is_one_for_the_summary_itself_and_none_for_other_words() -> None:
    assert general_written.rouge_l(["A river and a bridge."] * 2, ["a river and a bridge", "Peru"]) == [1.0, 0.0]


@pytest.mark.slow
def test_vllm_gives_what_transformers_gives(data: Path, done: Path, tmp_path: Path) -> None:
    # In a process of its own: two of vLLM's engines in one would share its global state.
    command = arguments(data, tmp_path, "vllm", "--tasks", "fever,mmlu,nq_open,perplexity")
    process = forked_script(Path(cli.__file__), command, {}, log=tmp_path / "log")
    process.join(300)
    process.kill()  # if it still runs
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()[-2000:]
    ours, theirs = only_run(tmp_path)[1], only_run(done)[1]
    for task in ("fever", "mmlu", "nq_open", "perplexity"):
        one, other = ours.record(task), theirs.record(task)
        assert one is not None
        assert other is not None
        assert one.score == pytest.approx(other.score, rel=1e-3)


def test_the_results_are_written_whole_and_read_by_the_report(done: Path) -> None:
    path, _ = only_run(done)
    assert json.loads(path.read_text(encoding="utf-8"))["format"] == 1
    assert not list(path.parent.glob(".*partial"))
    assert read_run(path).benchmark == "general"
