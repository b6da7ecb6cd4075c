"""The chart's schema of `settings`, made from the service's own: `python -m tests.deploy.settings_schema` renews it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic_settings import NoDecode

from grace_server.settings import Settings

SCHEMA = Path(__file__).parents[2] / "deploy/helm/grace/values.schema.json"
# The image's environment wins over the file, or the chart has a value of its own, which does more than the setting.
NOT_HERE = {"config", "data_dir", "host", "port", "model", "drain_timeout_s", "tracing"}
NOT_HERE |= {"api_keys", "audit_key", "qdrant_api_key"}  # secrets, which no ConfigMap should hold
_KEPT = ("type", "enum", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


def properties() -> dict[str, Any]:
    """What may stand under `settings`, each with the form the service accepts."""
    fields = Settings.model_json_schema()["properties"]
    return {name: _form(name, field) for name, field in fields.items() if name not in NOT_HERE}


def renewed(text: str) -> str:
    """The chart's schema with these properties, one a line."""
    lines = ",\n".join(f'        "{name}": {json.dumps(form)}' for name, form in properties().items())
    fresh = (
        f'    "settings": {{\n      "type": "object", "additionalProperties": false,\n      "properties": {{\n{lines}\n'
    )
    fresh += "      }\n    },\n"
    return re.sub(r'^    "settings": .*?(?=^    "models": )', lambda _: fresh, text, flags=re.DOTALL | re.MULTILINE)


def _form(name: str, field: dict[str, Any]) -> dict[str, Any]:
    if any(isinstance(mark, type) and mark is NoDecode for mark in Settings.model_fields[name].metadata):
        return {"type": [field["type"], "string"]}  # a text is taken apart by the service
    if "anyOf" in field:
        form, null = field["anyOf"]
        return {**_plain(form), "type": [form["type"], null["type"]]}
    return _plain(field)


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    return {key: field[key] for key in _KEPT if key in field}


if __name__ == "__main__":
    SCHEMA.write_text(renewed(SCHEMA.read_text(encoding="utf-8")), encoding="utf-8")
