"""schemathesis, stateful: sequences of requests that use each other's answers, made from the OpenAPI document
and from what its answers are good for (`links.py`).

GRACE_FUZZ_EXAMPLES sets how many sequences there are (4 a round here; 200 for a release: docs/security.md), and
GRACE_FUZZ_JSON where to write down what they came to.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, seed, settings
from schemathesis.core.parameters import ParameterLocation

from tests.hostile.links import linked
from tests.server.conftest import Serve
from tests.server.test_schema import CHECKS

EXAMPLES = int(os.environ.get("GRACE_FUZZ_EXAMPLES", "4"))  # sequences of a round
WRITTEN_TO = Path(file) if (file := os.environ.get("GRACE_FUZZ_JSON")) else None
ROUNDS = 12  # at most, until every operation was reached
STEPS = 20  # of a sequence
# How the process is, and what it counts: without parameters, and no answer leads there. `tests/server` asks them.
ASIDE = {"GET /livez", "GET /readyz", "GET /health", "GET /metrics", "GET /info"}
WALK = {
    "POST /indexes/{name}/documents",
    "GET /jobs/{id}",
    "POST /search",
    "DELETE /indexes/{name}/documents/{id}",
}
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


def explore(url: str) -> tuple[Reached, Reached, set[str]]:
    """All that was reached; what of it by a link: its path names what an earlier answer told; and what there is."""
    schema = schemathesis.openapi.from_dict(linked(httpx.get(f"{url}/openapi.json").json()))
    schema.config.update(base_url=url)
    schema.config.phases.stateful.inference.algorithms = []  # by names alone: they crowd out ours
    wanted = {found.ok().label for found in schema.get_all_operations()} - ASIDE
    reached: Reached = Counter()
    followed: Reached = Counter()

    class Machine(schema.as_state_machine()):  # type: ignore[misc]
        def setup(self) -> None:
            furnish(url)

        def step(self, input: Any) -> Any:
            output = super().step(input)
            if any(location == ParameterLocation.PATH for location, _ in input.applied_parameters):
                followed[(output.case.operation.label, output.response.status_code)] += 1
            return output

        def validate_response(self, response: Any, case: Any, **more: Any) -> None:
            reached[(case.operation.label, response.status_code)] += 1
            case.validate_response(response, checks=CHECKS)

    for number in range(ROUNDS):
        seed(number)(Machine).run(
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
        )
        if not left(reached, wanted):
            break
    return reached, followed, wanted


def left(reached: Reached, wanted: set[str]) -> set[str]:
    """What was never reached; of what the walk from a text to a hit is made of, what was never done."""
    done = {label for label, status in reached if status < 300}
    return (wanted - {label for label, _ in reached}) | (WALK - done)


async def test_no_sequence_of_requests_breaks_the_service(serve: Serve) -> None:
    service = await serve(live=True, log_level="error")
    reached, followed, wanted = await asyncio.to_thread(explore, service.url)
    assert not [status for _, status in reached if status >= 500]
    assert not left(reached, wanted)
    # Else every name was made up, and all that was seen is that there is no such thing.
    assert any("{name}" in label and status < 300 for label, status in followed), followed
    assert (await service.embed(input="still there"))["data"]
    if WRITTEN_TO:
        await asyncio.to_thread(WRITTEN_TO.write_text, json.dumps(told(reached, followed, wanted)), encoding="utf-8")


def told(reached: Reached, followed: Reached, wanted: set[str]) -> dict[str, int]:
    """The figures of a run, for the page on security (`long_runs.py`)."""
    return {
        "requests": reached.total(),
        "operations": len(wanted),
        "reached": len(wanted & {label for label, _ in reached}),
        "followed": followed.total(),
        "followed_and_done": sum(count for (_, status), count in followed.items() if status < 300),
    }
