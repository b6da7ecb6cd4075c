"""Checking a collection, all of it: what `grace-index verify` runs, and what tests run after every scenario.

SQLite is the truth: a complaint about it is reported and left alone. What is derived (text index, vector index,
checkpoints) can be repaired, which means made again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grace_server.index import metadata, reading
from grace_server.index.collection import Collection
from grace_server.index.store import Connection


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. A collection is sound if both are empty."""

    truth: tuple[str, ...]  # wrong in SQLite: restore a snapshot
    derived: tuple[str, ...]  # wrong in what is made from it
    repaired: bool = False


def verify(collection: Collection, *, repair: bool = False) -> Report:
    """Check everything that can be checked; make anew what is derived and wrong, if `repair`."""
    truth = [*collection.store.complaints(), *collection.store.read(lambda c: _documents(c, collection))]
    texts = [] if collection.store.text_index_is_right() else ["the text index differs from the texts"]
    fields = [] if collection.store.read(metadata.is_right) else ["the entries of the metadata differ from it"]
    vectors = _vector_index(collection)
    checkpoints = collection.checkpoints.complaints(
        collection.identity, last_seq=collection.store.read(reading.last_seq)
    )
    derived = (*texts, *fields, *vectors, *checkpoints)
    if not (repair and derived):
        return Report(tuple(truth), derived)
    if texts:
        collection.store.rebuild_text_index()
    if fields:
        collection.store.write(metadata.rebuild)
    if vectors or checkpoints:
        collection.checkpoints.forget()  # also those that keep their promises: the vectors may be wrong in them
        collection.reload()
        collection.maintain()
    return Report(tuple(truth), derived, repaired=True)


def _documents(connection: Connection, collection: Collection) -> list[str]:
    found: list[str] = []
    width = 4 * collection.dimensions
    rules = {
        "has a vector but is not ready": (
            "SELECT id FROM document JOIN vector USING (label) WHERE state <> 'ready'",
            (),
        ),
        "is ready but has no vector": (
            "SELECT id FROM document WHERE state = 'ready' AND label NOT IN (SELECT label FROM vector)",
            (),
        ),
        "has a vector of the wrong length": (
            "SELECT id FROM document JOIN vector USING (label) WHERE length(vector) <> ?",
            (width,),
        ),
        "has a vector of another model": (
            "SELECT id FROM document WHERE state = 'ready' AND fingerprint IS NOT ?",
            (collection.fingerprint,),
        ),
        "was changed after the last change": (
            "SELECT id FROM document WHERE seq > (SELECT seq FROM sequence)",
            (),
        ),
        "waits without a job": (
            "SELECT id FROM document WHERE state = 'pending' AND (job IS NULL OR job NOT IN (SELECT id FROM job))",
            (),
        ),
        "is both living and dead": ("SELECT id FROM document JOIN tombstone USING (label)", ()),
        "has metadata that is not JSON": ("SELECT id FROM document WHERE NOT json_valid(metadata)", ()),
    }
    for complaint, (sql, parameters) in rules.items():
        found += [f"document {row[0]!r} {complaint}" for row in connection.execute(f"{sql} LIMIT 20", parameters)]
    unbalanced = connection.execute(
        "SELECT id FROM job WHERE cancelled_at IS NULL AND total - done - failed - superseded <> "
        "(SELECT count(*) FROM document WHERE document.job = job.id AND state = 'pending') LIMIT 20"
    )
    found += [f"job {row[0]} does not add up" for row in unbalanced]
    for labels, vectors in reading.all_vectors(connection, dimensions=collection.dimensions):
        found += [f"vector of label {label} is not finite" for label in labels[~np.isfinite(vectors).all(axis=1)][:20]]
    return found


def _vector_index(collection: Collection) -> list[str]:
    found: list[str] = []
    with collection.store.reading() as connection:
        stored, held = reading.searchable(connection), collection.index.labels()
        if len(missing := np.setdiff1d(stored, held)):
            found.append(f"{len(missing)} documents are not in the vector index, such as label {missing[0]}")
        if len(extra := np.setdiff1d(held, stored)):
            found.append(f"{len(extra)} deleted documents are in the vector index, such as label {extra[0]}")
        if len(held) != len(np.unique(held)):
            found.append("a document is in the vector index twice")
        if (local := collection.local) is None:
            return found
        for labels, vectors in reading.all_vectors(connection, dimensions=collection.dimensions):
            if len(wrong := local.differing(labels, vectors)):
                found.append(f"{len(wrong)} vectors differ from the stored ones, such as label {wrong[0]}")
                break
    return found
