"""What `test_failing_calls.py` runs under a libc whose writes, fsyncs or renames fail: it works on, noting answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grace_server.errors import ApiError
from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.errors import IndexNotFound
from grace_server.index.snapshot import restore_snapshot, take_snapshot
from tests.index.crash_child import FINGERPRINT, SETTINGS, H, changes

CHANGES = 40


def main(folder: Path, told: Path) -> None:
    """Make the changes of seed 1, with a rebuild and a snapshot now and then. `told` lists what held and what not."""
    with told.open("w", encoding="utf-8") as file:
        catalog = Catalog(folder, Edges())
        try:
            collection = catalog.get("a")
        except IndexNotFound:
            collection = catalog.create("a", SETTINGS, dimensions=H, fingerprint=FINGERPRINT)
        for number, change in zip(range(CHANGES), changes(1), strict=False):
            try:
                if "delete" in change:
                    collection.delete(change["delete"])
                else:
                    collection.upsert(change["upsert"])
            except (ApiError, OSError):
                file.write(json.dumps(["refused", number]) + "\n")
            else:
                file.write(json.dumps(["held", number]) + "\n")
            file.flush()
            if number % 10 == 9:
                try:
                    collection.maintain("rebuild")
                    path = folder / f"{number}.snapshot"
                    take_snapshot(collection, path, catalog.edges)
                    restore_snapshot(catalog, path, f"copy-{number}")
                except (ApiError, OSError):
                    pass
        catalog.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
