"""Keep the results of the miniature runs, and write the tables of `docs/miniature.md` from what is kept.

    python -m grace_training.tiny.miniature_page --pack .miniature     # after runs: what they left, as one archive
    python -m grace_training.tiny.miniature_page                       # the tables and the curves, from the archive

On the page each part lies between `<!-- name -->` and `<!-- /name -->`; the words around it are written by hand.
"""

from __future__ import annotations

import argparse
import tarfile
import tempfile
from pathlib import Path

from grace_training import curves, study
from grace_training.evaluation import report
from grace_training.evaluation.report_markdown import blocks
from grace_training.tiny.miniature import ARMS

ROOT = Path(__file__).parents[3]
ARCHIVE = ROOT / "docs" / "results" / "miniature.tar.xz"
PAGE = ROOT / "docs" / "miniature.md"
CURVES = ROOT / "docs" / "images" / "miniature-training.svg"
KEPT = ("results/results/**/*.json", "runs/*/heldout.jsonl", "runs/*/history.json")
SECTIONS = ("main", "representations", "general", "algorithms", "weights")  # of the report, where there are runs for it
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


def parts(folder: Path) -> dict[str, str]:
    """Each part of the page, made from an unpacked archive."""
    page = report.build([folder / "results"])
    made = {section.name: blocks(section) for section in page.sections if section.name in SECTIONS}
    made["training"] = "\n".join(study.table(outcomes(folder)))
    return made


def outcomes(folder: Path) -> list[study.Outcome]:
    """The runs of each arm that ended, in the order of the arms."""
    ended = [path.parent for path in (folder / "runs").glob("*/history.json")]
    return [study.load(run) for arm in ARMS for run in sorted(ended) if run.name.rpartition("-")[0] == arm]


def page(text: str, made: dict[str, str]) -> str:
    """The page with each part made anew.

    Raises:
        ValueError: a part has no place on the page.
    """
    for name in (*SECTIONS, "training"):
        before, opened, rest = text.partition(f"<!-- {name} -->\n")
        _, closed, after = rest.partition(f"<!-- /{name} -->")
        if not closed:
            raise ValueError(f"the page has no place for {name}")
        text = f"{before}{opened}{made.get(name, ABSENT)}\n{closed}{after}"
    return text


def main() -> None:
    """Pack, if asked to, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, metavar="WORK", help="make the archive anew from a work folder first")
    options = parser.parse_args()
    if options.pack:
        pack(options.pack, ARCHIVE)
    with tempfile.TemporaryDirectory() as unpacked, tarfile.open(ARCHIVE) as packed:
        packed.extractall(unpacked, filter="data")
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), parts(Path(unpacked))), encoding="utf-8")
        CURVES.write_text(curves.svg(study.panels(outcomes(Path(unpacked)))), encoding="utf-8")


if __name__ == "__main__":
    main()
