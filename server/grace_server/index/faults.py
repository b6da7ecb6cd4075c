"""The moments at which a crash or a full disk would hurt most, by name. Tests fail or kill the process at each.

The order in the enum is the order on disk: it is the safety argument of `store.py` and `checkpoint.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class FaultPoint(Enum):
    """A step that must be survivable. Values are for messages."""

    BEFORE_COMMIT = "the transaction is written, not yet committed"
    AFTER_COMMIT = "committed, not yet applied to the vector index and not yet acknowledged"
    CHECKPOINT_WRITE = "a block of the checkpoint's file is about to be written"
    CHECKPOINT_SYNC = "the checkpoint's file is written, not yet fsynced"
    CHECKPOINT_RENAME = "the checkpoint's file is durable under its temporary name"
    CHECKPOINT_SYNC_FOLDER = "the checkpoint's file is renamed, the folder not yet fsynced"
    MANIFEST_WRITE = "the manifest is about to be written"
    MANIFEST_SYNC = "the manifest is written, not yet fsynced"
    MANIFEST_RENAME = "the manifest is durable under its temporary name"
    MANIFEST_SYNC_FOLDER = "the manifest is renamed, the folder not yet fsynced"
    CHECKPOINT_SWEEP = "the checkpoint is complete, older ones not yet removed"
    INDEX_SWAP = "a new base is built, searches still use the old one"
    SNAPSHOT_COPY = "the database is copied, the snapshot not yet packed"
    SNAPSHOT_RENAME = "the snapshot is durable under its temporary name"
    RESTORE_RENAME = "the restored collection is durable under its temporary name"
    MIGRATE_BATCH = "a batch is copied into the new collection"
    MIGRATE_SWITCH = "the new collection is complete, the alias not yet switched"


Faults = Callable[[FaultPoint], None]


def no_faults(point: FaultPoint) -> None:
    """What runs outside of tests: nothing happens."""
