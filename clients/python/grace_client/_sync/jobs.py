# Made from _async/jobs.py by `make generate`: change that file, not this one.
"""Jobs: the embedding work that writing documents leaves behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing

from grace_client import answer, wire
from grace_client._sync.http import Http
from grace_client._sync.primitives import sleep
from grace_client.errors import BadAnswer, ConnectionFailed, ServerFailed, TimedOut
from grace_client.results import Job

_SILENCE_S = 30.0  # the server writes a line every 10 s; longer silence means that something in between holds it back


class Jobs:
    """Ask how far a job is, wait for it, cancel it."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def get(self, id: str) -> Job:
        """Progress of a job.

        Raises:
            NotFound: there is none of that id, or its index was deleted.
        """
        return self._http.call(Job, "GET", _path(id))

    def cancel(self, id: str) -> Job:
        """Stop a job. What is embedded stays; what is not is kept as `cancelled` until it is sent again."""
        return self._http.call(Job, "DELETE", _path(id))

    def events(self, id: str) -> Generator[Job, None]:
        """Progress at each step, the last time when it is finished."""
        with closing(self._events(id, silence_s=_SILENCE_S)) as steps:
            yield from steps

    def wait(
        self,
        id: str,
        *,
        timeout_s: float | None = None,
        progress: Callable[[Job], None] | None = None,
        poll_s: float = 1.0,
    ) -> Job:
        """The job once it is finished. It listens; where a proxy keeps events back, it asks every `poll_s` seconds.

        Documents may have failed all the same: see `failed` and `failures`.

        Raises:
            TimedOut: it is not finished after `timeout_s` seconds. It goes on. While the server is silent, the time is
                looked at every 10 s: so much later at most.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            with closing(self._events(id, silence_s=_left(id, end, _SILENCE_S), until=end)) as steps:
                for job in steps:
                    if progress:
                        progress(job)
                    if job.finished_at is not None:
                        return job
                    _left(id, end)
        except (ConnectionFailed, ServerFailed, BadAnswer):
            _left(id, end)
        while True:
            try:
                job = self._http.call(Job, "GET", _path(id), until=end)
            except TimedOut:
                _left(id, end)
                raise
            if progress:
                progress(job)
            if job.finished_at is not None:
                return job
            sleep(_left(id, end, poll_s))

    def _events(self, id: str, *, silence_s: float, until: float | None = None) -> Generator[Job, None]:
        path = f"{_path(id)}/events"
        with self._http.events("GET", path, read_timeout_s=silence_s, until=until) as events:
            for event in events:
                job = answer.read(Job, event.data)
                yield job
                if event.name == "done":
                    return


def _path(id: str) -> str:
    return f"/jobs/{wire.segment(id)}"


def _left(id: str, end: float | None, most: float = float("inf")) -> float:
    """Seconds left until `end`, `most` at the most.

    Raises:
        TimedOut: none.
    """
    if end is None:
        return most
    left = end - time.monotonic()
    if left <= 0:
        raise TimedOut(f"job {id} is not finished yet; it goes on")
    return min(left, most)
