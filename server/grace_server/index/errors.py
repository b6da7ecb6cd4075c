"""What goes wrong around an index.

ApiError
├── IndexNotFound, DocumentNotFound, JobNotFound   404
├── Conflict                                       409, the name is taken or the state forbids it
│   └── FingerprintMismatch                        built by another model; the message says what to do
├── InvalidValue                                   422, `param` names the field
├── TooLarge                                       413
├── StoreRefused                                   500, asking again changes nothing
└── StoreUnavailable                               503, with Retry-After
    ├── StoreFull                                  the disk is full: nothing of this request was kept
    ├── StoreLocked                                another process has the data folder
    └── StoreDamaged                               the truth itself cannot be read: restore a snapshot
"""

from __future__ import annotations

from grace_server.errors import ApiError, InvalidValue, NotFound, TooLarge, Unavailable

__all__ = [
    "Conflict",
    "DocumentNotFound",
    "FingerprintMismatch",
    "IndexNotFound",
    "InvalidValue",
    "JobNotFound",
    "StoreDamaged",
    "StoreFull",
    "StoreLocked",
    "StoreRefused",
    "StoreUnavailable",
    "TooLarge",
]


class IndexNotFound(NotFound):
    """No collection and no alias of that name."""

    code = "index_not_found"


class DocumentNotFound(NotFound):
    """No document of that id in the collection."""

    code = "document_not_found"


class JobNotFound(NotFound):
    """No job of that id."""

    code = "job_not_found"


class Conflict(ApiError):
    """What is there forbids what was asked."""

    status, type, code = 409, "conflict_error", "conflict"


class FingerprintMismatch(Conflict):
    """The collection was built by another model: their vectors do not compare."""

    code = "fingerprint_mismatch"


class StoreRefused(ApiError):
    """A store on another machine does not take a request as it is: asking again changes nothing."""

    code = "store_refused"


class StoreUnavailable(Unavailable):
    """The store cannot take this now."""

    code = "store_unavailable"


class StoreFull(StoreUnavailable):
    """The disk is full; the transaction was rolled back whole."""

    code = "store_full"


class StoreLocked(StoreUnavailable):
    """Another process has the data folder open."""

    code = "store_locked"


class StoreDamaged(StoreUnavailable):
    """SQLite finds its own file damaged, or made by a newer version. Nothing is guessed."""

    code = "store_damaged"
