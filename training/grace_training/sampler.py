"""The order of the data, a function of seed and epoch alone.

TRL's sampler draws each epoch's order from one generator, whose state a checkpoint does not hold: a run resumed in its
second epoch would see the first epoch's order again (TRL 1.16.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from trl.trainer.utils import RepeatSampler


class EpochRepeatSampler(RepeatSampler):
    """RepeatSampler whose shuffle depends on the epoch it is told, not on how often it was asked."""

    epoch = 0

    @classmethod
    def of(cls, sampler: RepeatSampler) -> EpochRepeatSampler:
        """The same sampler with this class's order."""
        return cls(
            data_source=sampler.data_source,
            mini_repeat_count=sampler.mini_repeat_count,
            batch_size=sampler.batch_size,
            repeat_count=sampler.repeat_count,
            shuffle=sampler.shuffle,
            seed=sampler.seed,
        )

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch, by the trainer and by such dataloaders as know of it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + self.epoch)
        return super().__iter__()  # type: ignore[no-any-return]
