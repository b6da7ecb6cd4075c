"""Keep the results of the miniature runs, and write the tables of `docs/miniature.md` from what is kept.

    python -m grace_training.tiny.miniature_page --pack .miniature     # after runs: what they left, as one archive
    python -m grace_training.tiny.miniature_page --pack .passages --study passages
    python -m grace_training.tiny.miniature_page                       # the tables and the curves, from the archives

On the page each part lies between `<!-- study:name -->` and `<!-- /study:name -->`; the words around it are written by
hand.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
from pathlib import Path

from grace_training import curves, study
from grace_training.evaluation import report
from grace_training.evaluation.report_markdown import blocks
from grace_training.tiny.miniature import STUDIES

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "docs" / "results"
ARCHIVES = {"paper": RESULTS / "miniature.tar.xz", "passages": RESULTS / "passages.tar.xz"}
PAGE = ROOT / "docs" / "miniature.md"
IMAGES = ROOT / "docs" / "images"
CURVES = {"paper": IMAGES / "miniature-training.svg", "passages": IMAGES / "passages-training.svg"}
KEPT = ("results/results/**/*.json", "runs/*/heldout.jsonl", "runs/*/history.json")
# Of each study's report, and the curves' numbers.
PARTS = {
    "paper": ("main", "representations", "general", "algorithms", "weights", "training"),
    "passages": ("main", "representations", "general", "training"),
}
ABSENT = "Not run yet."


def pack(work: Path, archive: Path) -> None:
    """What runs left, without their weights and vectors; the same files give the same archive."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz") as packed:
        for path in sorted({path for pattern in KEPT for path in work.glob(pattern)}):
            known = packed.gettarinfo(path, arcname=str(path.relative_to(work)))
            known.uid = known.gid = known.mtime = 0
            known.uname = known.gname = ""
            with path.open("rb") as stream:
                packed.addfile(known, stream)


def parts(folder: Path, study_name: str) -> dict[str, str]:
    """Each part of the page that a study gives, by its name there, made from its unpacked archive."""
    page = report.build([folder / "results"])
    made = {section.name: blocks(section) for section in page.sections}
    made["training"] = "\n".join(study.table(outcomes(folder, study_name)))
    return {f"{study_name}:{part}": made.get(part, ABSENT) for part in PARTS[study_name]}


def outcomes(folder: Path, study_name: str) -> list[study.Outcome]:
    """The runs of each arm that ended, in the order of the arms."""
    ended = sorted(path.parent for path in (folder / "runs").glob("*/history.json"))
    return [study.load(run) for arm in STUDIES[study_name] for run in ended if run.name.rpartition("-")[0] == arm]


def page(text: str, made: dict[str, str]) -> str:
    """The page with each part made anew.

    Raises:
        ValueError: a part has no place on the page.
    """
    for name, part in made.items():
        before, opened, rest = text.partition(f"<!-- {name} -->\n")
        _, closed, after = rest.partition(f"<!-- /{name} -->")
        if not closed:
            raise ValueError(f"the page has no place for {name}")
        text = f"{before}{opened}{part}\n{closed}{after}"
    return text


def main() -> None:
    """Pack, if asked to, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, metavar="WORK", help="make an archive anew from a work folder first")
    parser.add_argument("--study", choices=STUDIES, default="paper", help="whose archive it is")
    options = parser.parse_args()
    if options.pack:
        pack(options.pack, ARCHIVES[options.study])
    for name, archive in ARCHIVES.items():
        with tempfile.TemporaryDirectory() as unpacked, tarfile.open(archive) as packed:
            packed.extractall(unpacked, filter="data")
            made = parts(Path(unpacked), name)
            PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")
            CURVES[name].write_text(curves.svg(study.panels(outcomes(Path(unpacked), name))), encoding="utf-8")


if __name__ == "__main__":
    main()
