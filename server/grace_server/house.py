"""What a request needs of the service once the model is there: one value, made when the doors open."""

from __future__ import annotations

from dataclasses import dataclass

from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from grace_server.admission import Admission
from grace_server.audit.signing import Signer
from grace_server.metrics import Metrics
from grace_server.settings import Settings
from grace_server.stop import Front


@dataclass(frozen=True, slots=True)
class House:
    """The model's parts and the first stop of a text's way."""

    settings: Settings
    metrics: Metrics
    checkpoint: Checkpoint
    prompter: Prompter
    front: Front  # the outermost stop: cache, in-flight sharing, admission and engine lie behind it
    admission: Admission
    created: int  # Unix time of the checkpoint
    signer: Signer | None = None  # of audit records

    @property
    def model_name(self) -> str:
        """The name replies carry: as set, or the checkpoint's; of a folder only its last part."""
        return served_name(self.settings)

    def answers_to(self, name: str) -> bool:
        """Whether a request for this model is meant for us."""
        return name in (
            self.model_name,
            self.checkpoint.name,
            self.checkpoint.fingerprint,
            *self.settings.model_aliases,
        )


def served_name(settings: Settings) -> str:
    """The name under which a model is served; nobody outside need know in which folder it lies."""
    if settings.model_name:
        return settings.model_name
    name = settings.model.rstrip("/")
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return name.rpartition("/")[2] if looks_like_path else name
