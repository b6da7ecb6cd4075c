"""A JSON text changed at one place, and JSON still: what gets past a parser to the code behind it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

ODD: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        0.5,
        -0.0,
        1e308,
        5e-324,
        float("inf"),
        float("nan"),
        2**31,
        2**63,
        2**64,
        -(2**63),
    ),
    *("", " ", "a", "\x00", "\ud800", "é", "e\u0301", "😀", "'", '"', "%", "_", "1", "1.0", "true", "null", "x" * 300),
    *("2001-01-01", "2001-01-01T00:00:00Z", "meta.year", "id", "..", "/", "<think>", "</think>", "<|im_end|>"),
    *("AND", "OR", "NOT", "==", "!=", ">", ">=", "<", "<=", "in", "not in"),
    *([], {}, [[]], [{}], {"": None}, [1, "x"], {"a": {"b": [1]}}),
]
LONGEST = 20_000  # characters; what grew beyond is given up
AS_IT_IS = 0.2  # of the changes are left to the fuzzer, which knows nothing of JSON


def mutated(data: bytes, rng: random.Random) -> bytes | None:
    """The JSON with one place changed; None where it is none, and now and then where it is."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if rng.random() < AS_IT_IS:
        return None
    try:
        for _ in range(rng.choice((1, 1, 2, 4))):
            value = json.loads(json.dumps(changed(value, rng))[:LONGEST])
        return json.dumps(value, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # too long, or too deep
        return None


def changed(value: Any, rng: random.Random) -> Any:
    """One place of a value is something else; the rest is the value's own."""
    places = list(containers(value))
    if not places or rng.random() < 0.05:
        return other(value, value, rng)
    place = rng.choice(places)
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    if not keys or rng.random() < 0.15:
        new = other(None, value, rng)
        if isinstance(place, dict):
            place[str(rng.choice(ODD))] = new
        else:
            place.insert(rng.randint(0, len(place)), new)
        return value
    key = rng.choice(keys)
    match rng.randrange(8):
        case 0:
            del place[key]
        case 1 if isinstance(place, dict):
            place[str(rng.choice(ODD))] = place.pop(key)
        case 1:
            place += [place[key]] * rng.choice((1, 10, 100))
        case _:
            place[key] = other(place[key], value, rng)
    return value


def other(one: Any, root: Any, rng: random.Random) -> Any:
    """Something in the place of a value: an odd one, a relative of it, or another part of the whole."""
    match rng.randrange(6):
        case 0:
            return [one]
        case 1:
            return json.loads(json.dumps(rng.choice([root, *containers(root)])))
        case 2 if isinstance(one, str) and one:
            at = rng.randrange(len(one) + 1)
            return one[:at] + str(rng.choice(ODD)) + one[at + rng.randrange(3) :]
        case 2 if isinstance(one, int | float):
            return one * rng.choice((-1, 2, 0.1, 1e30)) + rng.choice((0, 1, -1))
        case _:
            return json.loads(json.dumps(rng.choice(ODD)))


def containers(value: Any) -> Iterator[Any]:
    """Every list and object of a value, from the outside in; without recursion, as it may be deep."""
    left = [value]
    while left:
        one = left.pop(0)
        if isinstance(one, list | dict):
            yield one
            left += one if isinstance(one, list) else one.values()
