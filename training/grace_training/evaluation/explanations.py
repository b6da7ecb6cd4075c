"""`grace-eval explanations`: faithfulness of contributions, what rationales carry, calibration of their agreement.

Both measurements are written where `grace-eval report` finds them: see `report_analysis`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grace.checkpoint import BUNDLED_NAME

if TYPE_CHECKING:
    from grace import Grace
    from grace.representation import Representation, Role
    from grace_training.evaluation.calibration import Observed
    from grace_training.evaluation.faithfulness import Carried, Case, Curve
    from grace_training.evaluation.judged import Judged

MEASURES = ("faithfulness", "carried", "calibration")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    p = commands.add_parser(
        "explanations", help="are explanations faithful, and is agreement confidence?", description=__doc__
    )
    add = p.add_argument
    add("--model", default=BUNDLED_NAME, help="a GRACE checkpoint: folder, hub id, or the bundled one")
    add("--engine", choices=["vllm", "transformers"], default="vllm")
    add("--data", type=Path, metavar="FOLDER", help="corpus.jsonl, queries.jsonl, qrels.tsv (shipped abstracts)")
    add("--only", action="append", choices=MEASURES, help="of the measurements; repeatable (all)")
    add("--cases", type=int, default=60, help="queries whose documents are cut into sentences (%(default)s)")
    add("--queries", type=int, default=225, help="queries searched with (%(default)s)")
    add("--documents", type=int, default=1000, help="documents searched in, the relevant ones first (%(default)s)")
    add("--rationales", type=int, default=4, help="per query, sampled (%(default)s)")
    add("--temperature", type=float, default=0.7, help="they are sampled at (%(default)s)")
    add("--out", type=Path, default=Path("results"), help="results folder (%(default)s)")
    add("--quiet", action="store_true", help="no progress bars")
    p.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, print and write; 0 when done."""
    from grace import Grace
    from grace_training.evaluation import calibration, faithfulness
    from grace_training.evaluation.judged import load

    judged = load(options.data)
    small = judged.cut(queries=options.queries, documents=options.documents)
    wanted = options.only or MEASURES
    with Grace.load(options.model, engine=options.engine) as grace:
        model = _Model(grace, quiet=options.quiet)
        folder = options.out / grace.checkpoint.name.replace("/", "__") / grace.checkpoint.fingerprint[:12]
        if "faithfulness" in wanted or "carried" in wanted:
            cases: list[Case] = []
            curves: list[Curve] = []
            if "faithfulness" in wanted:
                cases = faithfulness.cases(judged, model.represent, most=options.cases)
                curves = faithfulness.curves(cases, model.represent)
            carried = faithfulness.carried(small, model.represent) if "carried" in wanted else None
            _write(
                folder, "faithfulness", faithfulness_of(grace.checkpoint.name, judged, small, cases, curves, carried)
            )
        if "calibration" in wanted:
            observed = calibration.observe(
                small, model.sample, rationales=options.rationales, temperature=options.temperature
            )
            _write(folder, "calibration", calibration_of(grace.checkpoint.name, small, observed, options))
    return 0


class _Model:
    """The model, asked once for each text and role however often it comes; sampled texts are asked for anew."""

    def __init__(self, grace: Grace, *, quiet: bool) -> None:
        self._grace, self._shown = grace, not quiet
        self._known: dict[tuple[Role, str], Representation] = {}

    def represent(self, texts: Sequence[str], role: Role, rationales: Sequence[str] | None) -> Sequence[Representation]:
        if rationales is not None:
            return self._grace.represent(texts, role=role, rationales=rationales, show_progress=self._shown)
        new = [text for text in dict.fromkeys(texts) if (role, text) not in self._known]
        made = self._grace.represent(new, role=role, temperature=0.0, show_progress=self._shown)
        self._known |= {(role, text): each for text, each in zip(new, made, strict=True)}
        return [self._known[role, text] for text in texts]

    def sample(self, texts: Sequence[str], role: Role, temperature: float) -> Sequence[Representation]:
        if temperature == 0:
            return self.represent(texts, role, None)
        return self._grace.represent(texts, role=role, temperature=temperature, show_progress=self._shown)


def faithfulness_of(
    label: str, judged: Judged, small: Judged, cases: Sequence[Case], curves: Sequence[Curve], carried: Carried | None
) -> dict[str, Any]:
    """`faithfulness.json`, as `report_analysis` reads it."""
    from grace_training.evaluation.faithfulness import ORDERS, SHARES, area_difference, difference, mean_interval

    drawn = []
    for curve in curves:
        ends = [mean_interval(column) for column in curve.values.T]
        drawn.append(
            {
                "kind": curve.kind,
                "order": curve.order,
                "share": list(SHARES),
                "value": curve.values.mean(axis=0).tolist(),
                "low": [end.low for end in ends],
                "high": [end.high for end in ends],
            }
        )
    by_name = {(curve.kind, curve.order): curve for curve in curves}
    areas = []
    for kind, order, against in (
        (kind, order, against)
        for kind in ("deletion", "insertion")
        for order in ORDERS[:2]
        for against in ("random", "length")
    ):
        if (kind, order) in by_name:
            found = area_difference(by_name[kind, order], by_name[kind, against])  # type: ignore[index]
            areas.append(
                {
                    "kind": kind,
                    "order": order,
                    "against": against,
                    "difference": found.mean,
                    "low": found.interval.low,
                    "high": found.interval.high,
                }
            )
    rows = []
    if carried is not None:
        for name, other in (
            ("the text alone", carried.input),
            ("the rationale alone", carried.rationale),
            ("another text's rationale", carried.shuffled),
        ):
            found = difference(carried.mean, other)
            rows.append(
                {
                    "name": f"nDCG@10 on {small.name}; without: {name}",
                    "with": float(carried.mean.mean()),
                    "without": float(other.mean()),
                    "low": found.interval.low,
                    "high": found.interval.high,
                }
            )
    score = f", {sum(case.score for case in cases) / len(cases):.4f} with every sentence" if cases else ""
    return {
        "format": 1,
        "label": label,
        "texts": len(cases),
        "measure": f"cosine to the query ({judged.name}{score})",
        "curves": drawn,
        "areas": areas,
        "carried": rows,
        "notes": [
            "Deletion: lower is more faithful. Insertion: higher is. The model reads each shortened text anew and "
            "writes another rationale.",
            *([f"{len(small.queries)} queries, {len(small.corpus)} documents searched in."] if carried else []),
        ],
    }


def calibration_of(label: str, judged: Judged, observed: Observed, options: argparse.Namespace) -> dict[str, Any]:
    """`calibration.json`, as `report_analysis` reads it, with the other signals in its notes."""
    from grace_training.evaluation.calibration import calibrate

    found = {name: calibrate(signal, observed.right) for name, signal in observed.signals.items()}
    own = found["consistency"]
    values = observed.signals["consistency"]
    return {
        "format": 1,
        "label": label,
        "queries": len(observed.right),
        "rationales": options.rationales,
        "signal": "probability from consistency",
        "outcome": f"first hit is relevant ({judged.name})",
        "ece": own.error,
        "is_confidence": own.is_confidence,
        "bins": [
            {
                "from": each.low,
                "to": each.high,
                "signal": each.predicted,
                "outcome": each.observed,
                "low": each.interval.low,
                "high": each.interval.high,
                "count": each.count,
            }
            for each in own.bins
        ],
        "items": {
            "right": observed.right.tolist(),
            **{name: signal.tolist() for name, signal in observed.signals.items()},
        },
        "notes": [
            f"Consistency {values.mean():.4f} on average, from {values.min():.4f} to {values.max():.4f}; "
            f"{observed.right.mean():.3f} of the first hits are relevant. Temperature {options.temperature}.",
            *(
                f"{name}: AUROC {each.auroc:.3f} [{each.auroc_interval.low:.3f}, {each.auroc_interval.high:.3f}], "
                f"calibration error {each.error:.3f}, Brier score {each.brier:.4f}, better than the base rate by "
                f"{each.base_brier - each.brier:.4f} [{each.gain.low:.4f}, {each.gain.high:.4f}]"
                + (": may be called confidence" if each.is_confidence else ": may not be called confidence")
                for name, each in found.items()
            ),
        ],
    }


def _write(folder: Path, name: str, data: Mapping[str, Any]) -> None:
    from grace_training.evaluation.report_analysis import FOLDER

    path = folder / FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    print(
        json.dumps(
            {key: value for key, value in data.items() if key not in ("curves", "items")}, indent=1, ensure_ascii=False
        )
    )
    print(path, file=sys.stderr)
