"""Run by test_fsdp2.py under `accelerate launch`: grace-train with FSDP2, its processes on the CPU.

accelerate (1.15.0) reads FSDP settings on accelerators only; on a CPU it silently runs DDP instead. torch's fully_shard
has no such limit, so the state is told what the launcher asked for, after accelerate has settled on processes and gloo.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from grace_training.cli import main

settle = AcceleratorState.__init__


def settle_on_fsdp(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    known = AcceleratorState._shared_state != {}
    settle(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if not known and fsdp_plugin is not None:
        self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin


if __name__ == "__main__":
    AcceleratorState.__init__ = settle_on_fsdp
    raise SystemExit(main())
