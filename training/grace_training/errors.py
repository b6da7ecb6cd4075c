"""What can go wrong in training, one class per cause; all are `GraceError`.

TrainingError
├── BadData            a row or a file cannot be trained on; the message names file and line
├── BadRecipe          settings that contradict each other, or that no run can satisfy
├── NonFiniteReward    a reward is NaN or infinite: stopped before it reached the weights
└── SaveFailed         a checkpoint could not be written whole, and nothing of it was left
"""

from grace.errors import GraceError


class TrainingError(GraceError):
    """Root of the errors of grace-train."""


class BadData(TrainingError):
    """A row or a file cannot be trained on."""


class BadRecipe(TrainingError, ValueError):
    """Settings that contradict each other, or that no run can satisfy."""


class NonFiniteReward(TrainingError):
    """A reward is NaN or infinite."""


class SaveFailed(TrainingError):
    """A checkpoint could not be written whole; nothing of it was left behind."""
