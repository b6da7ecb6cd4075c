"""schemathesis, stateful: sequences of requests that use each other's answers, made from the OpenAPI document alone.

GRACE_FUZZ_EXAMPLES sets how many sequences there are (8 here; 200 for a release: docs/security.md).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.core.parameters import ParameterLocation

from tests.server.conftest import Serve
from tests.server.test_schema import CHECKS

EXAMPLES = int(os.environ.get("GRACE_FUZZ_EXAMPLES", "8"))
Reached = Counter[tuple[str, int]]  # operations, and with which status they answered


def furnish(url: str) -> None:
    """Every sequence finds the same: an index with documents, which links lead to, and nothing of the one before."""
    with httpx.Client(base_url=url) as client:
        for index in client.get("/indexes").json()["data"]:
            for alias in index["aliases"]:
                client.delete(f"/aliases/{alias}")
            assert client.delete(f"/indexes/{index['name']}").status_code == 200
        assert client.put("/indexes/rivers", json={}).status_code == 201
        batch = {"documents": [{"id": name, "text": f"The {name}."} for name in ("Elbe", "Oder")], "wait": True}
        assert client.post("/indexes/rivers/documents", json=batch).status_code == 200


def explore(url: str) -> tuple[Reached, Reached]:
    """All that was reached, and what of it was reached by a link: its path names what an earlier answer told."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    reached: Reached = Counter()
    linked: Reached = Counter()

    class Machine(schema.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            furnish(url)

        def step(self, input: Any) -> Any:
            output = super().step(input)
            if any(location == ParameterLocation.PATH for location, _ in input.applied_parameters):
                linked[(output.case.operation.label, output.response.status_code)] += 1
            return output

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
    return reached, linked


async def test_no_sequence_of_requests_breaks_the_service(serve: Serve) -> None:
    service = await serve(live=True, log_level="error")
    reached, linked = await asyncio.to_thread(explore, service.url)
    assert not [status for _, status in reached if status >= 500]
    assert len({label for label, _ in reached}) >= 8, reached
    # Else every name was made up, and all that was seen is that there is no such thing.
    assert any("{name}" in label and status < 300 for label, status in linked), linked
    assert (await service.embed(input="still there"))["data"]
