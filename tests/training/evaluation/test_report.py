"""The report of a made-up results folder: every figure can be traced, nothing is hidden, nothing is interpreted."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from grace_training.evaluation import report_published as published
from grace_training.evaluation.cli import main
from grace_training.evaluation.report import build
from grace_training.evaluation.report_entries import entries
from grace_training.evaluation.report_html import html
from grace_training.evaluation.report_markdown import long_csv, markdown
from grace_training.evaluation.report_page import Case, Cell, Line, Page, Plot, Section, Table
from grace_training.evaluation.results import CATEGORIES, OWN, BadResults, Run, Sample, read_run, runs, write_run
from tests.training.evaluation.report_results import HOSTILE, TASKS, analyses, embedding_run, write_everything

RESAMPLES = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_everything(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return build([folder], resamples=RESAMPLES)


def table(page: Page, name: str) -> Table:
    return next(b for s in page.sections for b in s.blocks if isinstance(b, Table) and b.name == name)


def line(found: Table, label: str, kind: str = "measured") -> Line:
    return next(line for line in found.lines if line.label == label and line.kind == kind)


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_there_is_a_section_for_everything_the_paper_shows(page: Page) -> None:
    assert [section.name for section in page.sections] == [
        "trouble", "main", "algorithms", "weights", "training", "representations", "budgets", "general",
        "faithfulness", "calibration", "cases", "runs",
    ]  # fmt: skip


def test_an_average_is_the_mean_over_tasks_of_the_mean_over_seeds(folder: Path, page: Page) -> None:
    found = [run for _, run in runs(folder) if run.row == "contrastive" and run.benchmark != "general"]
    assert len(found) == 3
    by_hand = 100 * np.mean([np.mean([run.record(task).score for run in found]) for task, _, _ in TASKS])  # type: ignore[union-attr]
    row = line(table(page, "main-0"), "Contrastive")
    assert row.cells[-1].value == pytest.approx(by_hand)
    assert row.note.startswith("3 seeds (1, 2, 3)")


def test_rows_stand_in_the_papers_order_with_the_published_ones_beside(page: Page) -> None:
    labels = [line.label for line in table(page, "main-0").lines]
    assert labels == [
        "Base", "Base, published", "With reasoning", "With reasoning, published", "Contrastive",
        "Contrastive, published", "SimCSE", "SimCSE, published", "GRACE, supervised", "GRACE, supervised, published",
        "GRACE, unsupervised", "GRACE, unsupervised, published", "BM25",
    ]  # fmt: skip
    beside = line(table(page, "main-0"), "GRACE, supervised, published", "published")
    assert beside.cells[-1].text == "45.48"
    assert any("none of it was measured here" in note for note in table(page, "main-0").notes)


def test_published_figures_stand_beside_the_papers_backbones_and_benchmark_alone(tmp_path: Path) -> None:
    embedding_run(tmp_path, "base", backbone="somebody/else")
    embedding_run(tmp_path, "base", benchmark="MTEB(eng, v2)")
    kinds = {line.kind for s in build([tmp_path], resamples=0).sections for b in s.blocks if isinstance(b, Table)
             for line in b.lines}  # fmt: skip
    assert kinds == {"measured"}


def test_an_average_over_fewer_tasks_says_so_and_is_never_bold(page: Page) -> None:
    row = line(table(page, "main-0"), "GRACE, supervised")
    assert row.cells[-1].text.endswith("†")
    assert row.cells[-1].note == "7 of 8 tasks: failed NFCorpus"
    assert not row.cells[-1].bold
    assert any(note.startswith("†") for note in table(page, "main-0").notes)


def test_a_failed_task_is_listed_with_its_reason_and_seed_and_has_no_score(page: Page) -> None:
    failed = next(line for line in table(page, "failed").lines if line.label == "NFCorpus")
    assert failed.cells[0].text.startswith("OSError: the corpus could not be fetched")
    assert failed.cells[-1].text == "2"
    column = table(page, "tasks-0").columns.index("GRACE, supervised")
    cell = line(table(page, "tasks-0"), "NFCorpus").cells[column]
    assert (cell.text, cell.value) == ("failed", None)


def test_a_task_that_was_asked_for_and_never_run_is_listed_too(tmp_path: Path) -> None:
    path = embedding_run(tmp_path, "base")
    run = read_run(path)
    write_run(Run(**{**_fields(run), "expected": (*run.expected, "ArguAna")}), path.parent.parent)
    page = build([tmp_path], resamples=0)
    assert line(table(page, "failed"), "ArguAna").cells[0].text == "was asked for, and not run"
    assert line(table(page, "main-0"), "Base").cells[-1].note == "8 of 9 tasks: not run ArguAna"


def _fields(run: Run) -> dict[str, object]:
    return {name: getattr(run, name) for name in run.__dataclass_fields__}


def test_leaks_are_marked_in_the_figure_and_listed_with_their_share(page: Page) -> None:
    leak = line(table(page, "leaks"), "STSBenchmark")
    assert [cell.text for cell in leak.cells[2:]] == ["train: triples.jsonl", "12 of 240", "1, 2, 3"]
    column = table(page, "main-0").columns.index("STS 1")
    assert line(table(page, "main-0"), "Contrastive").cells[column].text.endswith("‡")


def test_a_difference_is_bold_exactly_where_its_interval_leaves_out_zero(page: Page) -> None:
    cells = [cell for line in table(page, "differences-0").lines for cell in line.cells if cell.interval]
    assert len(cells) > 30
    assert {cell.bold for cell in cells} == {True, False}
    for cell in cells:
        assert cell.interval is not None
        assert cell.bold == (cell.interval.low > 0 or cell.interval.high < 0)


def test_the_best_of_a_column_is_bold_only_if_it_differs_from_every_other(tmp_path: Path) -> None:
    for label, shift in (("a", 0.0), ("b", 0.001), ("c", -0.2)):
        embedding_run(tmp_path, "peer", label=label, shift=shift, backbone="")
    assert not any(line.cells[0].bold for line in table(build([tmp_path], resamples=RESAMPLES), "main-0").lines)
    embedding_run(tmp_path, "peer", label="d", shift=0.3, backbone="")
    found = table(build([tmp_path], resamples=RESAMPLES), "main-0")
    assert [line.label for line in found.lines if line.cells[0].bold] == ["d"]


def test_nothing_is_the_best_where_a_rival_failed(page: Page) -> None:
    cells = line(table(page, "tasks-0"), "NFCorpus").cells
    assert "failed" in [cell.text for cell in cells]
    assert not any(cell.bold for cell in cells)


def test_without_items_and_seeds_there_is_no_interval_and_nothing_bold(tmp_path: Path) -> None:
    for row in ("base", "reasoning"):
        path = embedding_run(tmp_path, row)
        for items in (path.parent / "items").glob("*.json"):
            items.unlink()
    found = table(build([tmp_path], resamples=RESAMPLES), "differences-0")
    assert all(cell.interval is None and not cell.bold for line in found.lines for cell in line.cells)
    assert found.lines[0].cells[0].note == "no interval: neither items nor seeds to resample"


def test_runs_that_nothing_tells_apart_are_never_averaged(tmp_path: Path) -> None:
    embedding_run(tmp_path, "base", label="one")
    embedding_run(tmp_path, "base", label="two", shift=0.1)
    found = entries(runs(tmp_path))
    assert sorted(entry.key.apart for entry in found) == ["one", "two"]


def test_trainings_told_apart_in_one_reading_are_told_apart_in_all(tmp_path: Path) -> None:
    for label in ("one", "two"):
        embedding_run(tmp_path, "grace-supervised", label=label)
    embedding_run(tmp_path, "grace-supervised", label="two", representation="rationale")
    found = {(entry.key.representation, entry.key.apart) for entry in entries(runs(tmp_path))}
    assert found == {("mean", "one"), ("mean", "two"), ("rationale", "two")}
    lines = [line for line in table(build([tmp_path], resamples=0), "main-0").lines if line.kind == "measured"]
    assert len(lines) == 2  # and not one more for the reading that one of them has alone


def test_seeds_of_one_training_are_one_row(folder: Path) -> None:
    found = [e for e in entries(runs(folder)) if e.key.row == "simcse"]
    assert [entry.seeds for entry in found] == [[1, 2, 3]]


def test_the_algorithms_are_compared_at_one_reward(page: Page) -> None:
    found = table(page, "algorithms-0-grace-supervised-0")
    assert [line.label for line in found.lines] == ["remax", "reinforce++", "dapo", "grpo"]


def test_the_grid_of_weights_leaves_blank_what_was_not_run(page: Page) -> None:
    found = table(page, "weights-0-0")
    assert found.columns == ("λ₂ = 0", "λ₂ = 0.2", "λ₂ = 0.4")
    assert [line.label for line in found.lines] == ["λ₁ = 0", "λ₁ = 0.2", "λ₁ = 0.4"]
    assert line(found, "λ₁ = 0.4").cells[0].text == "–"
    assert max(cell.shade or 0 for row in found.lines for cell in row.cells) == 1.0


def test_score_and_length_over_training_come_as_plot_and_table(page: Page) -> None:
    section = next(s for s in page.sections if s.name == "training")
    plots = [block.title for block in section.blocks if isinstance(block, Plot)]
    assert [title.partition(":")[0] for title in plots] == ["Score", "Length of rationales"]
    rows = [[cell.text for cell in row.cells[::2]] for row in table(page, "training-0-steps").lines]
    assert rows[:3] == [["200", "60.0"], ["600", "95.0"], ["1000", "120.0"]]


def test_representations_and_budgets_have_their_tables(page: Page) -> None:
    readings = [row.label for row in table(page, "representations-0-0").lines]
    assert sorted(readings) == ["direct", "input", "last", "mean", "rationale"]
    assert [row.label for row in table(page, "budgets-0-0").lines] == [f"{n} tokens" for n in (16, 32, 64, 128, 256)]


def test_general_ability_is_held_against_the_base_with_the_published_row_beside(page: Page) -> None:
    found = table(page, "general-0")
    fell = line(found, "Contrastive − Base").cells[0]
    assert fell.bold
    assert fell.value is not None
    assert fell.value < 0
    printed = line(found, "GRACE, supervised, published", "published")
    assert [cell.text for cell in printed.cells[-2:]] == ["41.08", "+0.34"]
    assert line(found, "Base").cells[found.columns.index("HumanEval")].text == "failed"
    small = table(page, "general-0-miniature")
    assert "%" in line(small, "GRACE, supervised − Base").cells[0].text


def test_case_studies_show_one_text_over_training_a_document_and_a_query(page: Page) -> None:
    cases = [b for s in page.sections if s.name == "cases" for b in s.blocks if isinstance(b, Case)]
    assert [case.title for case in cases] == ["One text over training", "A query"]
    assert any("step 200" in passage.label for passage in cases[0].passages)


def test_a_long_text_is_cut_and_says_so(tmp_path: Path) -> None:
    embedding_run(tmp_path, "reasoning", samples=(Sample("document", "x" * 5000, "a rationale", 3),))
    (case,) = next(s for s in build([tmp_path], resamples=0).sections if s.name == "cases").blocks
    assert isinstance(case, Case)
    assert (case.passages[0].label, len(case.passages[0].text)) == ("text, the first 1200 of 5000 characters", 1200)


def test_the_page_needs_nothing_from_elsewhere(page: Page) -> None:
    text = html(page)
    for tag, attributes in Tags(text).tags:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form", "img", "image", "use")
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "srcset", "action", "xlink:href", "data", "poster"):
                assert (value or "").startswith("#"), (tag, name, value)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in text


def test_what_a_model_wrote_is_never_interpreted(page: Page) -> None:
    text = html(page)
    assert HOSTILE not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 3  # a rationale, a reason, a note
    marked = markdown(page)
    outside = re.sub(r"(?ms)^(`{3,})text$.*?^\1$", "", marked)
    assert not re.search(r"(?<!\\)<script", outside)


@pytest.mark.parametrize("rationale", ["```\nout", "````text\n# head", HOSTILE])
def test_a_rationale_cannot_leave_its_fence(rationale: str) -> None:
    from grace_training.evaluation.report_page import Passage

    page = Page("t", (), (Section("s", "S", (), (Case("c", (Passage("p", rationale),)),)),))
    body = markdown(page).split("p:\n\n")[1]
    fence = body.split("text\n")[0]
    assert set(fence) == {"`"}
    assert body == f"{fence}text\n{rationale}\n{fence}\n"
    assert fence not in rationale


def test_the_csv_holds_every_figure_of_every_table(page: Page) -> None:
    rows = list(csv.DictReader(io.StringIO(long_csv(page))))
    cells = sum(len(ln.cells) for s in page.sections for b in s.blocks if isinstance(b, Table) for ln in b.lines)
    assert len(rows) == cells
    base = next(r for r in rows if (r["table"], r["line"], r["column"]) == ("main-0", "Base", "Avg. 8"))
    assert float(base["low"]) < float(base["value"]) < float(base["high"])


def test_a_spreadsheet_takes_no_text_of_the_csv_for_a_formula() -> None:
    cells = tuple(Cell(text) for text in ("=1+1", "@a", "+1.50", "-2.00", "-x"))
    page = Page("t", (), (Section("s", "S", (), (Table("n", "T", "", tuple("abcde"), (Line("=x", cells),)),)),))
    rows = list(csv.DictReader(io.StringIO(long_csv(page))))
    assert [row["text"] for row in rows] == ["'=1+1", "'@a", "+1.50", "-2.00", "'-x"]
    assert rows[0]["line"] == "'=x"


def test_the_report_is_the_same_every_time(folder: Path, page: Page) -> None:
    again = build([folder], resamples=RESAMPLES)
    assert html(again) == html(page)
    assert long_csv(again) == long_csv(page)


def test_the_command_writes_three_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "mine.html"
    assert main(["report", str(folder), "--out", str(out), "--resamples", "0"]) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["mine.csv", "mine.html", "mine.md"]
    assert capsys.readouterr().out.split() == [str(out.with_suffix(s)) for s in (".html", ".md", ".csv")]


def test_nothing_to_report_and_damage_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "no results of grace-eval here" in capsys.readouterr().err
    path = embedding_run(tmp_path, "base")
    path.write_text("{", encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 2
    assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("faithfulness", lambda data: data.pop("curves")),
        ("faithfulness", lambda data: data["curves"][0]["low"].pop()),
        ("calibration", lambda data: data["bins"][0].pop("count")),
        ("calibration", lambda data: data.update(format=2)),
    ],
)
def test_an_analysis_of_another_form_is_refused_by_name(tmp_path: Path, name: str, change: object) -> None:
    path = embedding_run(tmp_path, "base").parent / "analysis"
    analyses(path)
    file = path / f"{name}.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)  # type: ignore[operator]
    file.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BadResults, match=f"{name}.json"):
        build([tmp_path], resamples=0)


def test_analyses_alone_are_a_report_too(tmp_path: Path) -> None:
    analyses(tmp_path / OWN / "analysis")
    assert [section.name for section in build([tmp_path]).sections] == ["faithfulness", "calibration"]


def test_analyses_do_not_stand_in_the_way_of_runs(tmp_path: Path) -> None:
    path = embedding_run(tmp_path, "base")
    analyses(path.parent / "analysis")
    assert path.parent.name == OWN
    assert [run.row for _, run in runs(tmp_path)] == ["base"]


def test_published_figures_name_their_source_and_cover_the_papers_tables() -> None:
    assert published.source()["arxiv"] == "2510.04506"
    rows = ("base", "reasoning", "contrastive", "simcse", "grace-supervised", "grace-unsupervised")
    for backbone in published.backbones():
        assert all((found := published.mteb(backbone, row)) and set(found.scores) == set(CATEGORIES) for row in rows)
        assert all(published.general(backbone, row) for row in ("base", "contrastive", "grace-supervised"))
    assert published.algorithm("Qwen/Qwen2.5-3B-Instruct", "grpo").average == 55.89  # type: ignore[union-attr]
    assert published.mteb("nobody/nothing", "base") is None


def test_a_backbone_is_found_by_its_folders_name_too() -> None:
    assert published.matching("models/qwen2.5-1.5b-instruct") == "Qwen/Qwen2.5-1.5B-Instruct"


def test_the_printed_averages_of_general_ability_follow_from_their_cells_but_for_a_few_tenths() -> None:
    for backbone in published.backbones():
        for row in ("base", "contrastive", "grace-supervised", "grace-unsupervised"):
            found = published.general(backbone, row)
            assert found is not None
            assert np.mean(list(found.scores.values())) == pytest.approx(found.average, abs=0.2)


def test_the_printed_averages_of_mteb_do_not_follow_from_their_categories() -> None:
    """What the report says about them; should it become false, the note has to go."""
    sizes = published.category_sizes()
    assert sum(sizes.values()) == 56
    for backbone in published.backbones():
        found = published.mteb(backbone, "grace-supervised")
        assert found is not None
        total = sum(found.scores[name] * count for name, count in sizes.items()) / 56
        assert total - found.average > 2
