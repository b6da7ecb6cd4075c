# Made from _async/documents.py by `make generate`: change that file, not this one.
"""Documents of an index: write, read, delete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from grace_client import results, wire
from grace_client._sync.batches import batches_of
from grace_client._sync.http import Http
from grace_client._sync.jobs import Jobs
from grace_client._sync.primitives import results_of
from grace_client.answer import State
from grace_client.errors import DocumentNotFound
from grace_client.upload import Progress, Uploaded
from grace_client.wire import Document

_PAGE = 1000


class Documents:
    """Write, read, delete."""

    def __init__(self, http: Http, jobs: Jobs) -> None:
        self._http = http
        self._jobs = jobs

    def upsert(
        self, index: str, documents: Sequence[Document | Mapping[str, Any]], *, wait: bool = True
    ) -> results.Written:
        """Write up to 10,000 documents by id, all or none. Sending again is safe.

        With `wait` it returns when all are embedded or have failed (`job.failures`); without, when all are durable.
        """
        body = {"documents": [wire.document(one) for one in documents]}
        return self._write(index, wire.encode(body), wait=wait)

    def upload(
        self,
        index: str,
        documents: Iterable[Document | Mapping[str, Any]] | Iterable[Document | Mapping[str, Any]],
        *,
        batch_size: int = 128,
        at_once: int = 4,
        wait: bool = True,
        progress: Callable[[Progress], None] | None = None,
    ) -> Uploaded:
        """Write any number of documents, in batches of `batch_size` documents and a few megabytes at most.

        Documents are taken from the source only as batches finish: `at_once` of them are under way, with `wait` until
        they are embedded. A server that has no room (429) is waited for as often as it says when to come again, if that
        is within `Retries.longest_wait_s`; only one attempt in all (`NO_RETRIES`) waits for nothing. `progress` is told
        after each batch. Ids should be distinct: of two documents with one id either may win.

        Raises:
            GraceError: a batch could not be written. Those before it are; uploading again is safe.
        """
        told = Progress(total=len(documents) if isinstance(documents, Sequence) else None)

        def write(batch: bytes) -> results.Written:
            return self._write(index, batch, wait=wait, patient=True)

        jobs: list[str] = []
        failures: list[results.Failure] = []
        with closing(results_of(write, batches_of(documents, batch_size), at_once=at_once)) as all_written:
            for written in all_written:
                told = told.after(written)
                jobs.append(written.job.id)
                failures += written.job.failures
                if progress:
                    progress(told)
        return Uploaded(told.written, told.unchanged, told.failed, tuple(failures), tuple(jobs), told.cancelled)

    def get(self, index: str, id: str) -> results.StoredDocument:
        """A document, in whichever state.

        Raises:
            NotFound: no such document, or no such index.
        """
        return self._http.call(results.StoredDocument, "GET", f"{_path(index)}/{wire.segment(id)}")

    def get_each(self, index: str, ids: Iterable[str], *, at_once: int = 8) -> dict[str, results.StoredDocument]:
        """Documents by their ids; those that are not there are left out."""

        def get(id: str) -> results.StoredDocument | None:
            try:
                return self.get(index, id)
            except DocumentNotFound:
                return None

        wanted = list(dict.fromkeys(ids))
        with closing(results_of(get, wanted, at_once=at_once)) as each:
            found = {one.id: one for one in each if one is not None}
        return {id: found[id] for id in wanted if id in found}

    def list(
        self,
        index: str,
        *,
        filter: Mapping[str, Any] | None = None,
        state: State | None = None,
        after: str = "",
    ) -> Iterator[results.StoredDocument]:
        """All documents in the order of their ids, a page at a time."""
        query = wire.given(
            filter=None if filter is None else wire.encode(dict(filter)).decode(), state=state, limit=_PAGE
        )
        more: str | None = after
        while more is not None:
            page = self._http.call(results.Page, "GET", _path(index), query={**query, "after": more})
            yield from page.data
            more = page.next

    def delete(
        self, index: str, ids: Sequence[str] | str | None = None, *, filter: Mapping[str, Any] | None = None
    ) -> int:
        """Delete by ids or by a filter; how many were there. Ids that are not there are no error."""
        if (ids is None) == (filter is None):
            raise ValueError("give either ids or filter")
        listed = [ids] if isinstance(ids, str) else ids
        body = wire.given(ids=None if listed is None else list(listed), filter=None if filter is None else dict(filter))
        path = f"/indexes/{wire.segment(index)}/delete"
        return (self._http.call(results.Deleted, "POST", path, body=body, idempotent=True)).deleted

    def delete_all(self, index: str) -> int:
        """Delete every document; how many there were. The index stays."""
        return self.delete(index, filter=wire.EVERY)

    def _write(self, index: str, body: bytes, *, wait: bool, patient: bool = False) -> results.Written:
        written = self._http.call(results.Written, "POST", _path(index), body=body, idempotent=True, patient=patient)
        if not wait or written.job.finished_at is not None:
            return written
        return written.model_copy(update={"job": self._jobs.wait(written.job.id)})


def _path(index: str) -> str:
    return f"/indexes/{wire.segment(index)}/documents"
