"""The client: one method for each thing the server does."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from grace_client import results, vectors, wire
from grace_client._async.documents import AsyncDocuments
from grace_client._async.http import AsyncHttp
from grace_client._async.indexes import AsyncIndexes
from grace_client._async.jobs import AsyncJobs
from grace_client._async.primitives import results_of, sleep
from grace_client._async.stream import AsyncEmbedStream
from grace_client.answer import Method, Mode, Pooling, Role
from grace_client.errors import ConnectionFailed, TimedOut, Unavailable
from grace_client.explanations import Comparison
from grace_client.results import Embedding, Embeddings, Found
from grace_client.retries import NO_RETRIES, Retries

if TYPE_CHECKING:
    from grace_client.vectors import Floats

DEFAULT_URL = "http://127.0.0.1:8000"
# Writing a rationale takes as long as it takes; the server has deadlines of its own.
DEFAULT_TIMEOUT = httpx.Timeout(10.0, read=600.0, pool=600.0)


class AsyncGraceClient:
    """A GRACE server, as an object.

    `url` and `api_key` are those of `GRACE_CLIENT_URL` and `GRACE_CLIENT_API_KEY` unless given. `timeout` is in
    seconds, or httpx's own. `transport` stands in for the network: tests give one that calls an application.

    Every method raises `GraceError` for what goes wrong outside, `ValueError` for what is wrong before it is sent.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        timeout: float | httpx.Timeout = DEFAULT_TIMEOUT,
        retries: Retries | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.http = AsyncHttp(
            url or os.environ.get("GRACE_CLIENT_URL") or DEFAULT_URL,
            api_key=api_key or os.environ.get("GRACE_CLIENT_API_KEY"),
            timeout=timeout if isinstance(timeout, httpx.Timeout) else httpx.Timeout(timeout),
            retries=retries or Retries(),
            headers=headers,
            transport=transport,
        )
        self.indexes = AsyncIndexes(self.http)
        self.jobs = AsyncJobs(self.http)
        self.documents = AsyncDocuments(self.http, self.jobs)

    async def embed(
        self,
        input: str | Sequence[str],
        *,
        role: Role = "document",
        mode: Mode = "reason",
        pooling: Pooling | None = None,
        max_rationale_tokens: int | None = None,
        temperature: float | None = None,
        n: int | None = None,
        rationale: str | Sequence[str] | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate: bool | None = None,
        explain: bool = False,
        audit: bool | None = None,
    ) -> Embeddings:
        """Embed a text, or several in one request: a rationale is written for each and pooled with it.

        `rationale` gives rationales instead; `explain` tells the share of each sentence in its vector; `audit` signs
        what it was made from. What is not said is as the server has it. For more texts than one request takes
        (`info().limits.max_inputs`): `embed_each`.
        """
        body = wire.given(
            input=input if isinstance(input, str) else list(input),
            role=role,
            mode=mode,
            pooling=pooling,
            max_rationale_tokens=max_rationale_tokens,
            temperature=temperature,
            n=n,
            rationale=list(rationale) if rationale is not None and not isinstance(rationale, str) else rationale,
            dimensions=dimensions,
            normalize=normalize,
            truncate=truncate,
            explain=explain,
            audit=audit,
            encoding_format="base64",
        )
        return await self.http.call(Embeddings, "POST", "/embed", body=body, idempotent=True)

    @asynccontextmanager
    async def embed_stream(
        self,
        input: str,
        *,
        role: Role = "document",
        mode: Mode = "reason",
        pooling: Pooling | None = None,
        max_rationale_tokens: int | None = None,
        temperature: float | None = None,
        rationale: str | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        truncate: bool | None = None,
        explain: bool = False,
    ) -> AsyncIterator[AsyncEmbedStream]:
        """Embed one text and read the rationale while it is written. Leaving the block early ends the writing."""
        body = wire.given(
            input=input,
            role=role,
            mode=mode,
            pooling=pooling,
            max_rationale_tokens=max_rationale_tokens,
            temperature=temperature,
            rationale=rationale,
            dimensions=dimensions,
            normalize=normalize,
            truncate=truncate,
            explain=explain,
            encoding_format="base64",
            stream=True,
        )
        async with self.http.events("POST", "/embed", body=body) as events:
            yield AsyncEmbedStream(events)

    async def explain(
        self,
        first: str | Mapping[str, Any],
        second: str | Mapping[str, Any],
        *,
        against: str | Mapping[str, Any] | None = None,
        index: str | None = None,
        mode: Mode | None = None,
        pooling: Pooling | None = None,
        max_rationale_tokens: int | None = None,
        temperature: float | None = None,
        n: int | None = None,
        dimensions: int | None = None,
        top_pairs: int | None = None,
        without: Mapping[str, Sequence[int]] | None = None,
        ranks: bool | None = None,
        centred: bool | None = None,
        tokens: bool | None = None,
    ) -> Comparison:
        """Take the score of two texts apart, sentence by sentence.

        `first` is read as a query and `second` as a document; an object `{"text", "id", "role", "rationale"}` says
        otherwise, with `index` also a document of it by its `id`. `against` asks why `second` is above or below another
        one, `without` what is left without segments; `centred` subtracts the index's mean, `tokens` names each token.
        """
        body = wire.given(
            first=wire.side(first),
            second=wire.side(second),
            against=None if against is None else wire.side(against),
            index=index,
            mode=mode,
            pooling=pooling,
            max_rationale_tokens=max_rationale_tokens,
            temperature=temperature,
            n=n,
            dimensions=dimensions,
            top_pairs=top_pairs,
            without=None if without is None else {name: list(some) for name, some in without.items()},
            ranks=ranks,
            centred=centred,
            tokens=tokens,
        )
        return await self.http.call(Comparison, "POST", "/explain", body=body, idempotent=True)

    async def search(
        self,
        query: str | None = None,
        *,
        index: str = "default",
        vector: Sequence[float] | Floats | None = None,
        k: int = 10,
        offset: int = 0,
        method: Method = "dense",
        mode: Mode | None = None,
        filter: Mapping[str, Any] | None = None,
        threshold: float | None = None,
        dense_weight: float | None = None,
        explain: bool = False,
        centred: bool | None = None,
        top_pairs: int | None = None,
        grams: bool | None = None,
    ) -> Found:
        """The documents nearest to a query, or to a vector. Filters: docs/search.md."""
        body = wire.given(
            query=query,
            vector=None if vector is None else vectors.plain(vector),
            index=index,
            k=k,
            offset=offset,
            method=method,
            mode=mode,
            filter=None if filter is None else dict(filter),
            threshold=threshold,
            dense_weight=dense_weight,
            explain=explain,
            centred=centred,
            top_pairs=top_pairs,
            grams=grams,
        )
        return await self.http.call(Found, "POST", "/search", body=body, idempotent=True)

    async def search_each(
        self,
        queries: Sequence[str] | None = None,
        *,
        index: str = "default",
        vectors: Sequence[Sequence[float] | Floats] | None = None,
        k: int = 10,
        offset: int = 0,
        method: Method = "dense",
        mode: Mode | None = None,
        filter: Mapping[str, Any] | None = None,
        threshold: float | None = None,
        dense_weight: float | None = None,
        explain: bool = False,
        centred: bool | None = None,
        top_pairs: int | None = None,
        grams: bool | None = None,
    ) -> list[Found]:
        """What each of several queries finds, up to 64 in one request."""
        wire.listed(queries=queries)
        body = wire.given(
            query=None if queries is None else list(queries),
            vector=None if vectors is None else [_plain(vector) for vector in vectors],
            index=index,
            k=k,
            offset=offset,
            method=method,
            mode=mode,
            filter=None if filter is None else dict(filter),
            threshold=threshold,
            dense_weight=dense_weight,
            explain=explain,
            centred=centred,
            top_pairs=top_pairs,
            grams=grams,
        )
        return (await self.http.call(results.FoundEach, "POST", "/search", body=body, idempotent=True)).results

    async def embed_each(
        self,
        texts: Sequence[str],
        *,
        role: Role = "document",
        mode: Mode = "reason",
        pooling: Pooling | None = None,
        dimensions: int | None = None,
        normalize: bool | None = None,
        batch_size: int = 32,
        at_once: int = 4,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Embedding]:
        """Embed any number of texts, in their order: `at_once` requests of `batch_size` are under way.

        `progress` is told (done, total) after each.
        """
        wire.positive(batch_size=batch_size)
        wire.listed(texts=texts)

        async def embed(start: int) -> tuple[int, list[Embedding]]:
            batch = texts[start : start + batch_size]
            embedded = await self.embed(
                batch, role=role, mode=mode, pooling=pooling, dimensions=dimensions, normalize=normalize
            )
            return start, embedded.data

        found: dict[int, list[Embedding]] = {}
        done = 0
        async with aclosing(results_of(embed, range(0, len(texts), batch_size), at_once=at_once)) as each:
            async for start, part in each:
                found[start] = part
                done += len(part)
                if progress:
                    progress(done, len(texts))
        in_order = (item for start in sorted(found) for item in found[start])
        # The server counts within its request.
        return [item.model_copy(update={"index": i}) for i, item in enumerate(in_order)]

    async def encode(self, texts: str | Sequence[str], *, dimensions: int | None = None, **options: Any) -> Floats:
        """Vectors alone, as sentence-transformers gives them: (H,) for one text, (N, H) for a list. Needs numpy.

        The options are those of `embed_each`.
        """
        np = vectors.numpy()
        if isinstance(texts, str):
            [alone] = await self.embed_each([texts], dimensions=dimensions, **options)
            return alone.vector
        if not texts:
            none: Floats = np.zeros((0, dimensions or (await self.info()).limits.dimensions), np.float32)
            return none
        stacked: Floats = np.stack([i.vector for i in await self.embed_each(texts, dimensions=dimensions, **options)])
        return stacked

    async def encode_query(self, texts: str | Sequence[str], **options: Any) -> Floats:
        """`encode` for what is searched with."""
        return await self.encode(texts, role="query", **options)

    async def encode_document(self, texts: str | Sequence[str], **options: Any) -> Floats:
        """`encode` for what is searched in."""
        return await self.encode(texts, role="document", **options)

    @staticmethod
    def similarity(a: Floats | Sequence[Any], b: Floats | Sequence[Any]) -> Floats:
        """(N, M) cosines of vectors (N, H) and (M, H), computed here. Needs numpy."""
        return vectors.similarity(a, b)

    async def info(self) -> results.Info:
        """What is served, under which limits and settings."""
        return await self.http.call(results.Info, "GET", "/info")

    async def metrics(self) -> str:
        """Metrics in Prometheus' text format."""
        return (await self.http.request("GET", "/metrics")).text

    async def live(self) -> bool:
        """Whether the process runs. No retries."""
        return await self._answers("/livez")

    async def ready(self) -> bool:
        """Whether it takes requests now: false while it loads or drains, and if nobody answers. No retries."""
        return await self._answers("/readyz")

    async def wait_until_ready(self, *, timeout_s: float = 600.0, poll_s: float = 1.0) -> None:
        """Return once the server takes requests.

        Raises:
            TimedOut: it does not after `timeout_s` seconds.
        """
        end = time.monotonic() + timeout_s
        while not await self._answers("/readyz", until=end):
            if time.monotonic() + poll_s > end:
                raise TimedOut(f"{self.http.url} is not ready after {timeout_s:g} seconds")
            await sleep(poll_s)

    async def aclose(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _answers(self, path: str, *, until: float | None = None) -> bool:
        try:
            await self.http.request("GET", path, retries=NO_RETRIES, until=until)
        except (ConnectionFailed, Unavailable):
            return False
        return True


_plain = vectors.plain  # `search_each` has a parameter of that module's name
