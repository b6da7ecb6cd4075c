"""schemathesis over the OpenAPI document: no 5xx, no undocumented status, replies as described."""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.conftest import Serve

# Not among them: whether valid data is accepted. Limits depend on the model, the document cannot hold them.
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EXAMPLES = 40


def fuzz(url: str, mode: GenerationMode) -> list[str]:
    """Send generated requests to every operation; the operations that were reached."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    reached = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if mode is GenerationMode.NEGATIVE and "requestBody" not in operation.definition.raw:
            continue  # there is nothing to get wrong

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        send()
        reached.append(operation.label)
    return reached


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_the_service_does_what_its_document_says(serve: Serve, mode: GenerationMode) -> None:
    service = await serve(live=True, log_level="error")
    reached = await asyncio.to_thread(fuzz, service.url, mode)
    assert {"POST /embed", "POST /v1/embeddings"} <= set(reached)
    statuses = {
        sample.labels["status"]
        for family in service.app.state.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "grace_requests_total" and sample.value
    }
    assert not [status for status in statuses if status.startswith("5")]
    assert "200" in statuses if mode is GenerationMode.POSITIVE else "422" in statuses
