"""Where services are born that are to be killed: a process that imports everything once, and forks one at each call.

`python -m tests.faults.nursery` reads lines of JSON, `{"arguments", "variables", "stdout", "stderr"}`, answers each
with `{"born": pid}`, and tells of each end with `{"pid", "code"}`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

from grace.checkpoint import Checkpoint
from grace.prompt import Prompter
from tests.faults import child


def main() -> None:
    Prompter(Checkpoint.load())  # what is imported only for this, of Transformers, takes each of them many seconds
    told, births = threading.Lock(), threading.Semaphore(0)

    def tell(**what: int) -> None:
        with told:
            print(json.dumps(what), flush=True)  # noqa: T201

    def watch() -> None:
        while True:
            births.acquire()
            pid, status = os.wait()
            tell(pid=pid, code=os.waitstatus_to_exitcode(status))

    threading.Thread(target=watch, daemon=True).start()
    for line in sys.stdin:
        with told:
            pid = os.fork()
            if not pid:
                bear(json.loads(line))
        tell(born=pid)
        births.release()


def bear(wanted: dict[str, Any]) -> None:
    """Become the service, and end with its code."""
    code = 1
    try:
        os.environ.update(wanted["variables"])
        for file, path in ((sys.stdin, "/dev/null"), (sys.stdout, wanted["stdout"]), (sys.stderr, wanted["stderr"])):
            opened = os.open(path, os.O_RDWR | os.O_CREAT)
            os.dup2(opened, file.fileno())
            os.close(opened)
        code = child.main(*wanted["arguments"])
        sys.stdout.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
