"""Server-sent events, however the network cuts them."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from grace_client.events import Event, EventParser

# What str.splitlines would split at, and the format does not.
TEXTS = st.text(alphabet=st.sampled_from("ab:\u2028\u2029\x85\x0b\x0c\x1c ü\U0001f600\n\r")) | st.text()


@given(
    st.lists(st.tuples(st.sampled_from(["rationale", "done", ""]), TEXTS)),
    st.randoms(),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_events_are_the_same_wherever_the_stream_is_cut(
    events: list[tuple[str, str]], random: object, end: str
) -> None:
    stream = b"".join(
        (f"event: {name}{end}" if name else "").encode()
        + f"data: {json.dumps(text)}{end}: a comment{end}{end}".encode()
        for name, text in events
    ) + (b"\n" if end == "\r" else b"")
    parser, found = EventParser(), []
    while stream:
        size = random.randint(1, len(stream))  # type: ignore[attr-defined]
        chunk, stream = stream[:size], stream[size:]
        found += parser.feed(chunk)
    assert [(e.name, json.loads(e.data)) for e in found] == [(name or "message", text) for name, text in events]


@given(TEXTS.filter(lambda text: "\n" not in text and "\r" not in text))
def test_unescaped_line_separators_stay_in_the_data(text: str) -> None:
    stream = f"event: rationale\ndata: {text}\n\n".encode("utf-8", "surrogatepass")
    [event] = EventParser().feed(stream)
    assert event.data == text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def test_fields_of_the_format() -> None:
    stream = b"id: 7\nretry: 10\ndata:one\ndata: two\ndata\n\nevent: nothing\n\nevent:x\ndata: y\n\ndata: unfinished\n"
    assert list(EventParser().feed(stream)) == [Event("message", "one\ntwo\n"), Event("x", "y")]
