"""OpenTelemetry spans: one for a request, and under it one for each stop that a text passed. Off unless asked for.

Where they go, under which name, and which share of them, OpenTelemetry's own variables say (`OTEL_*`). No span holds a
text, a rationale, a path or the words of an error: attributes are numbers and names out of fixed sets.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

Attributes = Mapping[str, str | int | float]
_GOODBYE_S = 3  # the exporter by itself would try for ten


class Tracing:
    """Makes spans and sends them from a thread of its own; a collector that is away costs requests nothing."""

    def __init__(self, exporter: SpanExporter | None = None) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        ours = Resource({"service.name": "grace", "service.version": version("grace-embed")})
        # Not `Resource.create`: its argument would win over OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
        resource = Resource.create().merge(ours).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("grace_server", version("grace-embed"))

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[RequestSpan]:
        """The span of a request, under the caller's if its headers name one; `span` below finds it from here on."""
        from opentelemetry import propagate, trace

        parent = propagate.extract(headers)
        opened = self._tracer.start_span(method, parent, trace.SpanKind.SERVER, {"http.request.method": method})
        token = _current.set(_Current(self._tracer, trace.set_span_in_context(opened, parent)))
        try:
            yield RequestSpan(opened)
        finally:
            _current.reset(token)
            opened.end()

    def close(self) -> None:
        """Send what is left; a collector that is slow or away is not waited for longer than a few seconds."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(_GOODBYE_S)


class StopSpan:
    """One stop of a text's way; it ends with its scope, as failed if that ended with an error."""

    def __init__(self, opened: Span | None) -> None:
        self._opened = opened

    def note(self, attributes: Attributes) -> None:
        """Add what is known only now."""
        if self._opened is not None:
            self._opened.set_attributes(attributes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, places: TracebackType | None
    ) -> None:
        if self._opened is None:
            return
        if kind is not None:
            _fail(self._opened, kind.__qualname__)
        self._opened.end()


class RequestSpan:
    """The span of a request while it runs."""

    def __init__(self, opened: Span) -> None:
        self._opened = opened

    @property
    def trace_id(self) -> str:
        """Of the whole trace, in hexadecimal digits, as logs and tools show it."""
        return f"{self._opened.get_span_context().trace_id:032x}"

    @property
    def span_id(self) -> str:
        """Of this span."""
        return f"{self._opened.get_span_context().span_id:016x}"

    def finish(self, name: str, attributes: Attributes, *, error: str | None) -> None:
        """Name it for its route, say how it ended."""
        self._opened.update_name(name)
        self._opened.set_attributes(attributes)
        if error is not None:
            _fail(self._opened, error)


@dataclass(frozen=True, slots=True)
class _Current:
    tracer: Tracer
    context: Context  # of the request's span, the parent of every stop's


# The request that runs, as `logs.current` is; None where tracing is off. OpenTelemetry's own current span is not used:
# it would have to be detached in the context it was attached in, which a generator that is closed elsewhere cannot do.
_current: ContextVar[_Current | None] = ContextVar("grace_trace", default=None)
_NOTHING = StopSpan(None)


def span(name: str, attributes: Attributes | None = None) -> StopSpan:
    """A span under the request's; nothing where tracing is off, or for work that belongs to no request."""
    if (current := _current.get()) is None:
        return _NOTHING
    return StopSpan(current.tracer.start_span(name, current.context, attributes=attributes))


def _fail(opened: Span, kind: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    opened.set_attribute("error.type", kind)
    opened.set_status(Status(StatusCode.ERROR))
