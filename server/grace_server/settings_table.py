"""The table in `docs/configuration.md`, made from the settings: `python -m grace_server.settings_table` renews it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from grace_server.settings import PREFIX, Settings

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def table() -> str:
    """One row per setting, in Markdown."""
    rows = [
        f"| `{PREFIX}{name.upper()}` | `--{name.replace('_', '-')}` | {_default(name, field)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | flag | default | meaning |", "|---|---|---|---|", *rows])


def renewed(page: str) -> str:
    """The page with a fresh table between its marks."""
    fresh = f"{BEGIN}\n{table()}\n{END}"
    return re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: fresh, page, flags=re.DOTALL)


def _default(name: str, field: FieldInfo) -> str:
    value: Any = "the user's data folder" if name == "data_dir" else field.get_default(call_default_factory=True)
    match value:
        case None | () | {}:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case str() if " " in value:
            return value
        case _:
            return f"`{value}`"


def _main() -> None:
    page = Path("docs/configuration.md")
    page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    _main()
