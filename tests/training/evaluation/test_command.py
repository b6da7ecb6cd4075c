"""`grace-eval local` as a person runs it, on the reference engine: what the other adds, `test_mteb_model` shows."""

from __future__ import annotations

import json
from pathlib import Path

import mteb
import pytest

from grace_training.evaluation.cli import main
from grace_training.evaluation.results import CATEGORIES, Run, read_run, runs


@pytest.fixture(scope="module")
def done(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    assert main([*common(model_folder, out), "--representations", "all", "--budgets", "4,8", "--limit", "6"]) == 0
    return out


def common(model: Path, out: Path) -> list[str]:
    engine = ["--engine", "transformers", "--dtype", "float32"]
    return ["local", "--model", str(model), *engine, "--out", str(out), "--quiet", "--label", "tiny"]


def test_every_representation_under_every_budget_is_a_run(done: Path) -> None:
    found = [run for _, run in runs(done)]
    variants = {(run.representation, run.budget) for run in found}
    assert variants == {
        (name, budget) for name in ("mean", "rationale", "input", "last", "direct") for budget in (4, 8)
    }
    for run in found:
        assert tuple(record.category for record in run.tasks) == CATEGORIES
        assert all(record.reason is None for record in run.tasks)
        assert run.label == "tiny"
        assert run.benchmark == "small"
        assert run.rationale_tokens is not None
        assert run.budget is not None
        assert run.rationale_tokens <= run.budget
        assert (run.texts_per_s is None) == (run.budget == 4)  # cut from what was written under 8
        assert run.samples
        assert (done / "report.html").stat().st_size > 10_000
        assert run.row == ("base" if run.representation in ("direct", "input") else "reasoning")
    assert by(found, "input", 8) == by(found, "direct", 8)
    assert by(found, "mean", 4) != by(found, "mean", 8)


def by(found: list[Run], name: str, budget: int) -> list[float | None]:
    return [r.score for run in found if (run.representation, run.budget) == (name, budget) for r in run.tasks]


def test_mteb_reads_what_was_written(done: Path) -> None:
    loaded = mteb.ResultCache(done).load_results(load_experiments="match_name", require_model_meta=True)
    assert len(loaded.model_results) == 10
    assert all(len(result.task_results) == 7 for result in loaded.model_results)


def test_a_second_run_starts_no_engine_and_changes_nothing(
    done: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from grace import Grace

    before = dict(runs(done))
    monkeypatch.setattr(Grace, "load", None)
    arguments = [*common(model_folder, done), "--representations", "all", "--budgets", "4,8", "--limit", "6"]
    assert main([*arguments, "--overwrite"]) == 0
    assert "mean of 7 tasks" in capsys.readouterr().out
    for path, run in runs(done):
        assert [r.score for r in run.tasks] == [r.score for r in before[path].tasks]


@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_is_at_least_one(
    model_folder: Path, tmp_path: Path, limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*common(model_folder, tmp_path), "--limit", limit]) == 2
    assert "--limit must be at least 1" in capsys.readouterr().err


def test_shards_embed_what_a_run_without_them_then_finds(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grace import Grace

    arguments = [*common(model_folder, tmp_path), "--limit", "4", "--no-report"]
    for shard in ("1/2", "2/2"):
        assert main([*arguments, "--shard", shard]) == 0
    assert not list(tmp_path.rglob("run*.json"))
    monkeypatch.setattr(Grace, "load", None)
    assert main(arguments) == 0
    ((_, run),) = runs(tmp_path)
    assert len(run.tasks) == 7
    assert run.texts_per_s is None


def test_shards_under_budgets_come_to_the_scores_of_one_run(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grace import Grace

    def arguments(out: Path) -> list[str]:
        chosen = ["--limit", "4", "--budgets", "4,8", "--categories", "Retrieval,STS"]
        return [*common(model_folder, out), *chosen, "--no-report"]

    assert main(arguments(tmp_path / "plain")) == 0
    for shard in ("1/2", "2/2"):
        assert main([*arguments(tmp_path / "sharded"), "--shard", shard]) == 0
    monkeypatch.setattr(Grace, "load", None)
    assert main(arguments(tmp_path / "sharded")) == 0
    plain, sharded = ([run for _, run in runs(tmp_path / name)] for name in ("plain", "sharded"))
    assert [run.budget for run in sharded] == [run.budget for run in plain]
    for one, other in zip(plain, sharded, strict=True):
        assert [r.score for r in other.tasks] == pytest.approx([r.score for r in one.tasks], abs=1e-6)
        assert other.rationale_tokens == one.rationale_tokens


@pytest.fixture
def gaps(tmp_path: Path) -> Path:
    """A suite of two tasks with empty texts, which have no token of `input`."""
    folder = tmp_path / "gaps"
    folder.mkdir()
    tasks = []
    for name, empty in (("One", 1), ("Two", 3)):
        rows = [{"s1": f"{name} {n}", "s2": "" if n < empty else f"{n}. {name}", "score": n} for n in range(6)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tasks.append({"name": name, "type": "STS", "test": f"{name}.jsonl", "min_score": 0, "max_score": 5})
    (folder / "suite.json").write_text(json.dumps({"name": "gaps", "tasks": tasks}))
    return folder


def test_a_run_in_pieces_counts_what_one_in_a_piece_counts(model_folder: Path, gaps: Path, tmp_path: Path) -> None:
    def counted(name: str, *asked: list[str]) -> tuple[object, float | None]:
        chosen = ["--data", str(gaps), "--representations", "input", "--no-report"]
        for tasks in asked:
            assert main([*common(model_folder, tmp_path / name), *chosen, *tasks]) == 0
        ((_, run),) = runs(tmp_path / name)
        return run.settings.get("stood_in"), run.rationale_tokens

    whole = counted("whole", [])
    assert whole[0] == 4
    assert counted("added", ["--tasks", "One"], []) == whole
    assert counted("done", [], []) == whole
    assert counted("again", [], ["--tasks", "Two"], ["--tasks", "One"]) == whole
    assert counted("one", ["--tasks", "One"]) != whole


def test_a_run_from_before_tasks_were_counted_is_gone_on_with(model_folder: Path, gaps: Path, tmp_path: Path) -> None:
    """Its figures stay until a task is added; then they would be of that task alone, and are left out."""
    chosen = [*common(model_folder, tmp_path / "old"), "--data", str(gaps), "--representations", "input", "--no-report"]
    assert main([*chosen, "--tasks", "One"]) == 0
    ((path, new),) = runs(tmp_path / "old")
    data = json.loads(path.read_text())
    for record in data["tasks"]:
        del record["counts"], record["compared_with"]
    path.write_text(json.dumps(data))

    assert main([*chosen, "--tasks", "One"]) == 0
    kept = read_run(path)
    assert (kept.settings["stood_in"], kept.rationale_tokens) == (1, new.rationale_tokens)
    assert main(chosen) == 0
    added = read_run(path)
    assert [record.status for record in added.tasks] == ["done", "done"]
    assert "stood_in" not in added.settings
    assert added.rationale_tokens is None
    assert main([*chosen, "--overwrite"]) == 0
    assert read_run(path).settings["stood_in"] == 4


def test_a_dry_run_counts_and_writes_nothing(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*common(model_folder, tmp_path), "--dry-run", "--categories", "STS,Clustering"]) == 0
    said = capsys.readouterr().out
    assert "Inference" in said
    assert "= Clustering" in said
    assert "Studies" not in said
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "Nothing"], "--tasks: 'Nothing' is not among"),
        (["--data", "/nowhere"], "cannot be read"),
        (["--suite", "unheard-of"], "cannot be read"),
        (["--budgets", "99999"], "is over the"),
        (["--representations", "direct", "--budgets", "8"], "writes nothing|does not write"),
        (["--peer", "tfidf", "--budgets", "8"], "belong to GRACE checkpoints"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(
    arguments: list[str], said: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main([*common(model_folder, tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error.splitlines()[-1]), error
    assert "Traceback" not in error


def test_every_file_of_ours_is_plain_json(done: Path) -> None:
    def refuse(name: str) -> None:
        raise ValueError(name)

    found = [*done.rglob("grace/*.json"), *done.rglob("grace/items-small/*.json")]
    assert len(found) == 10 * 8
    for path in found:
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
