"""A worker of vLLM's whose steps do not return while a file is there."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from grace.engines.vllm_worker import GraceWorker

FILE = "GRACE_TEST_HANG"  # the variable that names it


class HangingWorker(GraceWorker):
    """Otherwise ours."""

    def execute_model(self, *asked: Any, **more: Any) -> Any:
        while Path(os.environ[FILE]).exists():
            time.sleep(0.05)
        return super().execute_model(*asked, **more)
