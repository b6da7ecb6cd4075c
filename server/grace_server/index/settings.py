"""The settings of a collection: chosen when it is created, stored in it, never changed afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from grace.pooling import Pooling
from grace.representation import Mode
from grace_server.index.errors import InvalidValue, StoreDamaged

if TYPE_CHECKING:
    from grace.checkpoint import CheckpointConfig

Kind = Literal["auto", "flat", "hnsw", "ivf"]
Metric = Literal["cosine", "dot"]
Quantization = Literal["none", "sq8", "pq"]
Sums = Literal["float32", "float16", "none"]
Durability = Literal["FULL", "NORMAL"]


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """How documents are embedded, compared and kept.

    `auto` is flat up to `flat_limit` rows and IVF above. Sums are what explanations are computed from: with "none",
    scores of this collection cannot be explained.
    """

    kind: Kind = "auto"
    metric: Metric = "cosine"
    quantization: Quantization = "none"
    document_mode: Mode = "reason"
    query_mode: Mode = "reason"
    pooling: Pooling = "mean"
    dimensions: int | None = None  # cut vectors to the first so many; None keeps all
    sums: Sums = "float32"
    durability: Durability = "FULL"  # SQLite's `synchronous`; NORMAL may lose the last commits when the power fails
    flat_limit: int = 50_000  # rows up to which every vector is compared, which is exact
    links: int = 32  # HNSW: neighbours per node
    build_width: int = 128  # HNSW: efConstruction
    search_width: int | None = None  # HNSW: efSearch; None: measured when the index is built
    probes: float | None = None  # IVF: share of the cells that are searched; None: measured when the index is built
    recall: float = 0.995  # share of the 10 true neighbours at which those two are measured
    rescore: int = 4  # candidates per hit whose score is computed again from the vector, in IVF and when quantised

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InvalidValue(f"settings.{name} must be one of {', '.join(choices)}", param=f"settings.{name}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if name in _MAY_BE_LEFT_OUT and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InvalidValue(f"settings.{name} must lie in {low}..{high}", param=f"settings.{name}")
            if name not in _FRACTIONS and not isinstance(value, int):
                raise InvalidValue(f"settings.{name} must be a whole number", param=f"settings.{name}")

    @classmethod
    def from_json(cls, text: str) -> CollectionSettings:
        """Read what `to_json` wrote.

        Raises:
            StoreDamaged: keys this version does not know: a newer one made the collection.
        """
        data: dict[str, Any] = json.loads(text)
        if unknown := sorted(set(data) - {f.name for f in fields(cls)}):
            raise StoreDamaged(f"the collection has settings of a newer version: {', '.join(unknown)}")
        return cls(**data)

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps(asdict(self), sort_keys=True)


def chosen_for(config: CheckpointConfig, chosen: Mapping[str, Any]) -> CollectionSettings:
    """Settings out of those that were chosen; what was not, or is None, is as the checkpoint says, then as we do.

    Raises:
        InvalidValue: naming the setting, or the mode that leaves nothing to pool.
    """
    of_checkpoint = {
        "pooling": config.pooling,
        "document_mode": config.mode["document"],
        "query_mode": config.mode["query"],
    }
    made = CollectionSettings(**(of_checkpoint | {name: value for name, value in chosen.items() if value is not None}))
    # Not when settings are read: a collection that has the pair from an earlier version is still to be opened.
    check_mode(made, made.document_mode, param="settings.document_mode")
    check_mode(made, made.query_mode, param="settings.query_mode")
    return made


def check_mode(settings: CollectionSettings, mode: Mode, *, param: str) -> None:
    """Refuse a mode under which no text has a vector.

    Raises:
        InvalidValue: nothing is written, and the rationale is all that is pooled.
    """
    if mode == "direct" and settings.pooling == "rationale":
        raise InvalidValue(
            f"{param} 'direct' writes no rationale, and pooling 'rationale' pools nothing else: take 'reason'",
            param=param,
        )


def with_defaults(settings: CollectionSettings, *, hidden_size: int) -> tuple[CollectionSettings, int]:
    """Settings as they are kept, and how many dimensions vectors have under them."""
    dimensions = hidden_size if settings.dimensions is None else min(settings.dimensions, hidden_size)
    return replace(settings, dimensions=None if dimensions == hidden_size else dimensions), dimensions


_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": get_args(Kind),
    "metric": get_args(Metric),
    "quantization": get_args(Quantization),
    "document_mode": get_args(Mode),
    "query_mode": get_args(Mode),
    "pooling": get_args(Pooling),
    "sums": get_args(Sums),
    "durability": get_args(Durability),
}
_RANGES: dict[str, tuple[float, float]] = {
    "dimensions": (1, 65_536),
    "flat_limit": (0, 10_000_000),
    "links": (4, 128),
    "build_width": (8, 2_000),
    "search_width": (8, 10_000),
    "probes": (0.0001, 1.0),
    "recall": (0.5, 1.0),
    "rescore": (1, 100),
}
_MAY_BE_LEFT_OUT = ("dimensions", "search_width", "probes")
_FRACTIONS = ("probes", "recall")
