"""schemathesis, stateful: sequences of requests that use each other's answers, made from the OpenAPI document alone.

GRACE_FUZZ_EXAMPLES sets how many sequences there are (8 here; 200 for a release: docs/security.md).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings

from tests.server.conftest import Serve
from tests.server.test_schema import CHECKS

EXAMPLES = int(os.environ.get("GRACE_FUZZ_EXAMPLES", "8"))


def explore(url: str) -> Counter[tuple[str, int]]:
    """Operations reached, and with which status."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    reached: Counter[tuple[str, int]] = Counter()

    class Machine(schema.as_state_machine()):  # type: ignore[misc]
        def validate_response(self, response: Any, case: Any, **more: Any) -> None:
            reached[(case.operation.label, response.status_code)] += 1
            case.validate_response(response, checks=CHECKS)

    Machine.run(
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
    )
    return reached


async def test_no_sequence_of_requests_breaks_the_service(serve: Serve) -> None:
    service = await serve(live=True, log_level="error")
    reached = await asyncio.to_thread(explore, service.url)
    assert not [status for _, status in reached if status >= 500]
    assert len({label for label, _ in reached}) >= 8, reached
    assert any(status < 300 for _, status in reached)
    assert (await service.embed(input="still there"))["data"]
