"""`/indexes/{name}/documents`: write, read, list, delete."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from grace_server.errors import problems
from grace_server.index.document import MAX_BATCH, Document, Given, State, check_id
from grace_server.index.errors import DocumentNotFound, InvalidValue
from grace_server.index.filters import Clause, compile_filter
from grace_server.index.routes.shapes import JobOut, RationaleOut, Strict, indexes_of, job_out, rationale_out
from grace_server.request_body import FIRST

router = APIRouter(tags=["documents"])


class DocumentIn(Strict):
    """A document to write. With a rationale, that one is pooled; with a vector, no model is asked."""

    id: str = Field(description="1..512 bytes, no control characters")
    text: str | None = Field(None, description="may be left out only beside a vector")
    metadata: dict[str, Any] | None = Field(None, description="any JSON, to filter by")
    rationale: str | None = None
    vector: Annotated[list[float], FIRST] | None = None


class DocumentsIn(Strict):
    """A batch, taken whole or not at all."""

    documents: Annotated[list[DocumentIn], FIRST] = Field(description=f"1..{MAX_BATCH}, ids distinct")
    wait: bool = Field(False, description="answer only when all are embedded or have failed")


class WrittenOut(BaseModel):
    """What became of a batch. Everything in it is durable."""

    object: Literal["written"] = "written"
    documents: int
    unchanged: int = Field(description="sent before with the same contents: nothing was done for them")
    job: JobOut


class DocumentOut(BaseModel):
    """A stored document."""

    object: Literal["document"] = "document"
    id: str
    state: State
    text: str
    metadata: dict[str, Any]
    given: Given = Field(description="what the vector is made from, beside the text")
    rationale: RationaleOut | None
    fingerprint: str | None
    truncated: bool
    reason: str | None = Field(description="why it could not be embedded")
    seq: int = Field(description="number of its last change")


class DocumentPage(BaseModel):
    """Documents in the order of their ids."""

    object: Literal["list"] = "list"
    data: list[DocumentOut]
    next: str | None = Field(description="pass as `after` for the next page; null at the end")


class DeleteIn(Strict):
    """Which documents to delete: one of the two."""

    ids: Annotated[list[str], FIRST] | None = None
    filter: dict[str, Any] | None = None


class DeletedOut(BaseModel):
    """How many documents were there and are gone."""

    object: Literal["deleted"] = "deleted"
    deleted: int


@router.post(
    "/indexes/{name}/documents",
    status_code=202,
    responses={**problems(404, 409, 413), 200: {"model": WrittenOut, "description": "waited for"}},
)
async def write_documents(request: Request, response: Response, name: str, body: DocumentsIn) -> WrittenOut:
    """Write documents by id, new or not: 202 and a job that embeds them, or 200 with `wait`. Sending again is safe."""
    indexes = indexes_of(request)
    documents = [document.model_dump() for document in body.documents]
    job, change = await indexes.write(name, documents, wait=body.wait)
    response.status_code = 200 if body.wait else 202
    rate = None if job.finished_at else await asyncio.to_thread(indexes.rate, job.id)
    return WrittenOut(documents=change.documents, unchanged=change.unchanged, job=job_out(job, rate))


@router.get("/indexes/{name}/documents", responses=problems(404))
async def list_documents(
    request: Request,
    name: str,
    after: Annotated[str, Query(description="an id: documents after it")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    state: Annotated[State | None, Query(description="only those in this state, such as `failed`")] = None,
    filter: Annotated[str | None, Query(description="a filter, as JSON")] = None,
) -> DocumentPage:
    """Documents in the order of their ids, a page at a time."""
    collection = indexes_of(request).catalog.get(name)
    clause = _clause_of(filter)
    found = await asyncio.to_thread(collection.page, after=after, limit=limit, clause=clause, state=state)
    return DocumentPage(data=[_out(d) for d in found], next=found[-1].id if len(found) == limit else None)


@router.get("/indexes/{name}/documents/{id:path}", responses=problems(404))
async def get_document(request: Request, name: str, id: str) -> DocumentOut:
    """A document, in whichever state."""
    collection = indexes_of(request).catalog.get(name)
    document = await asyncio.to_thread(collection.get, check_id(id, param="id"))
    if document is None:
        raise DocumentNotFound(f"index {name!r} has no document {id[:80]!r}", param="id")
    return _out(document)


@router.delete("/indexes/{name}/documents/{id:path}", responses=problems(404))
async def delete_document(request: Request, name: str, id: str) -> DeletedOut:
    """Delete a document. One that is not there is no error, so that a retry is safe."""
    collection = indexes_of(request).catalog.get(name)
    ids = [check_id(id, param="id")]
    return DeletedOut(deleted=await indexes_of(request).on_write_thread(collection, lambda: collection.delete(ids)))


@router.post("/indexes/{name}/delete", responses=problems(404, 413))
async def delete_documents(request: Request, name: str, body: DeleteIn) -> DeletedOut:
    """Delete many documents, by their ids or by a filter."""
    indexes = indexes_of(request)
    collection = indexes.catalog.get(name)
    if (body.ids is None) == (body.filter is None):
        raise InvalidValue("give either ids or filter", param="filter" if body.filter is not None else "ids")
    if body.filter is not None:
        clause = compile_filter(body.filter)
        deleted = await indexes.on_write_thread(collection, lambda: collection.delete_matching(clause))
        return DeletedOut(deleted=deleted)
    ids = [check_id(one, param=f"ids[{i}]") for i, one in enumerate(body.ids or [])]
    return DeletedOut(deleted=await indexes.on_write_thread(collection, lambda: collection.delete(ids)))


def _clause_of(text: str | None) -> Clause | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidValue("filter must be JSON", param="filter") from error
    return compile_filter(value)


def _out(document: Document) -> DocumentOut:
    return DocumentOut(
        id=document.id,
        state=document.state,
        text=document.text,
        metadata=document.metadata,
        given=document.given,
        rationale=rationale_out(document.rationale),
        fingerprint=document.fingerprint,
        truncated=document.truncated,
        reason=document.reason,
        seq=document.seq,
    )
