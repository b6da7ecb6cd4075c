"""What can be sent to a service, as its OpenAPI document tells: a new route is attacked without being listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NAME = "default"  # of the index and the document that are there; also the text wherever one is needed
HERE = "what is hostile goes here"
# What the document cannot say: what an object needs besides, for the rest of it to be looked at.
BESIDE: dict[str, dict[str, Any]] = {
    "SearchIn": {"query": NAME},
    "DocumentIn": {"text": NAME},
    "SideIn": {"text": NAME},
    "DeleteIn": {"ids": [NAME]},
    "PlaceIn": {"seq": 2},  # of the map: after an index with one document was made
}


@dataclass(frozen=True)
class Operation:
    """A route that takes a body."""

    method: str
    route: str  # with its parameters' names, as metrics tell it
    good: bytes  # the least body that is taken
    places: tuple[bytes, ...]  # bodies with HERE in one place, for every place there is
    unknown: bytes  # one with HERE in a field that the route does not have

    @property
    def path(self) -> str:
        """Where to send it."""
        return self.route.format(name=NAME, alias="alias")


def operations(document: dict[str, Any]) -> list[Operation]:
    """All that take a body."""
    kinds = document["components"]["schemas"]
    found = []
    for route, methods in document["paths"].items():
        for method, told in methods.items():
            if "requestBody" in told:
                schema = told["requestBody"]["content"]["application/json"]["schema"]
                good = least(schema, kinds)
                places = tuple(dict.fromkeys(map(body, marked(schema, kinds))))
                found.append(Operation(method.upper(), route, body(good), places, body({**good, "unknown": HERE})))
    return found


def variants(schema: dict[str, Any], kinds: dict[str, Any]) -> list[dict[str, Any]]:
    """What a value may be, one schema each, with nothing left to look up or to choose from."""
    if "$ref" in schema:
        return variants(kinds[schema["$ref"].rpartition("/")[2]], kinds)
    if "anyOf" in schema:
        return [one for inner in schema["anyOf"] for one in variants(inner, kinds)]
    return [schema]


def least(schema: dict[str, Any], kinds: dict[str, Any]) -> Any:
    """The smallest value of a schema that does something."""
    one = variants(schema, kinds)[0]
    match one["type"]:
        case "object":
            return objects(one, kinds)[-1]
        case "array":
            return [least(one["items"], kinds)]
        case "string":
            return NAME
        case "integer" | "number":
            return 1
        case other:
            raise AssertionError(f"the smallest {other} is not known")


def objects(one: dict[str, Any], kinds: dict[str, Any]) -> list[dict[str, Any]]:
    """What may stand around a field: what must, and what the field is looked at beside."""
    needed = {name: least(one["properties"][name], kinds) for name in one.get("required", ())}
    return [needed, needed | BESIDE.get(one["title"], {})]


def marked(schema: dict[str, Any], kinds: dict[str, Any]) -> Iterator[Any]:
    """The smallest values of a schema with HERE in one place: instead of it, and of everything in it."""
    yield HERE
    for one in variants(schema, kinds):
        for name, inner in one.get("properties", {}).items():
            for value in marked(inner, kinds):
                yield from ({**around, name: value} for around in objects(one, kinds))
        if "items" in one:
            yield from ([value] for value in marked(one["items"], kinds))
        if one.get("additionalProperties") is True:
            yield {"any": HERE}


def body(value: Any) -> bytes:
    """A value as it is sent."""
    return json.dumps(value).encode()
