"""Our worker with the buffers between pipeline stages, which vLLM makes in a warm-up that a CPU does not get."""

from __future__ import annotations

from typing import Any

from grace.engines.vllm_worker import GraceWorker


class PipelineWorker(GraceWorker):
    """For tests of what our worker does on several stages; nothing of the sums is here."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        runner = self.model_runner
        if runner.intermediate_tensors is None:
            runner.intermediate_tensors = runner.model.make_empty_intermediate_tensors(
                batch_size=runner.max_num_tokens, dtype=runner.model_config.dtype, device=runner.device
            )
