"""Events cut anywhere, with any line ends, are the same events."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamCut
from app.services.streaming import sse
from app.services.streaming.sse import MAX_EVENT_ELEMENTS, SseDecoder, get_event_data, get_event_name, with_data
from tests.support.soak import examples

LINE_ENDS = [b"\n", b"\r\n", b"\r"]

TEXTS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    ["é🌍", "\u2028\u0085\x0b\x0c", "data: x", ":", " ", "[DONE]"]
)


@st.composite
def events(draw: st.DrawFn) -> tuple[list[str], str | None]:
    """Draws the lines of one event and its data: comments, data with and without a space, over several lines."""
    values = draw(st.lists(TEXTS, max_size=3))
    lines = [draw(st.sampled_from(["data: ", "data:"])) + value for value in values]
    # One space after the colon is syntax, so a leading space of a value is kept only after another one.
    data = [line[5:].removeprefix(" ") for line in lines]
    for more in draw(st.lists(st.sampled_from([": a comment", ":", "event: ping", "id: 7", "retry: 10"]), max_size=2)):
        lines.insert(draw(st.integers(0, len(lines))), more)
    return lines or [": keep-alive"], "\n".join(data) if values else None


def split_in_pieces(stream: bytes, positions: list[int]) -> list[bytes]:
    decoder = SseDecoder()
    edges = [0, *sorted(position % (len(stream) + 1) for position in positions), len(stream)]
    found = []
    for start, end in zip(edges, edges[1:], strict=False):
        found += [event for event, _ in decoder.decode(stream[start:end])]
    assert decoder.finish() == []
    return found


@settings(max_examples=examples(120), deadline=None)
@given(st.lists(events(), max_size=5), st.sampled_from(LINE_ENDS), st.lists(st.integers(0, 10_000), max_size=8))
def test_events_cut_anywhere_are_the_same_events(
    drawn: list[tuple[list[str], str | None]], end: bytes, positions: list[int]
) -> None:
    stream = b"".join(line.encode() + end for lines, _ in drawn for line in [*lines, ""])
    found = split_in_pieces(stream, positions)
    assert b"".join(found) == stream
    assert [get_event_data(event) for event in found] == [None if data is None else data.encode() for _, data in drawn]


@pytest.mark.parametrize("end", LINE_ENDS)
def test_a_stream_cut_in_two_at_any_byte_has_the_same_events(end: bytes) -> None:
    lines = [
        b'data: {"text": "h\xc3\xa9llo \xf0\x9f\x8c\x8d"}',
        b"",
        b": ping",
        b"",
        b"data:[1,",
        b"data: 2]",
        b"",
        b"",
    ]
    stream = end.join(lines)
    for position in range(len(stream) + 1):
        found = split_in_pieces(stream, [position])
        assert [get_event_data(event) for event in found] == ['{"text": "héllo 🌍"}'.encode(), None, b"[1,\n2]"]


@pytest.mark.parametrize("end", LINE_ENDS)
def test_an_event_is_returned_with_its_last_byte(end: bytes) -> None:
    decoder = SseDecoder()
    event = b"data: [DONE]" + end + end
    assert decoder.decode(event) == [(event, b"[DONE]")] and not decoder.has_part


@pytest.mark.parametrize("end", LINE_ENDS)
def test_extra_blank_lines_are_not_events(end: bytes) -> None:
    stream = end * 3 + b"data: 1" + end * 5 + b"data: 2" + end * 4
    for position in range(len(stream)):
        found = split_in_pieces(stream, [position])
        assert [get_event_data(event) for event in found] == [b"1", b"2"], position


def test_an_incomplete_event_is_held_back() -> None:
    decoder = SseDecoder()
    assert decoder.decode(b"data: one\n\ndata: tw") == [(b"data: one\n\n", b"one")]
    assert decoder.has_part
    assert decoder.decode(b"") == []
    assert decoder.decode(b"o\n") == []
    assert decoder.decode(b"\n") == [(b"data: two\n\n", b"two")]


def test_an_event_without_an_end_is_refused_once_it_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    decoder = SseDecoder()
    decoder.decode(b"data: " + b"x" * 900)
    with pytest.raises(UpstreamCut, match="more than 1000 bytes"):
        decoder.decode(b"x" * 200)


def test_a_large_event_in_many_pieces_comes_out_whole() -> None:
    stream = b'data: {"text": "' + b"x" * 100_000 + b'"}\n\n'
    assert split_in_pieces(stream, list(range(0, 100_000, 1000))) == [stream]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b'data: {"a": 1}\n\n', b'{"a": 1}'),
        (b'data:{"a": 1}\r\n\r\n', b'{"a": 1}'),
        (b'data: {"a":\ndata: 1}\n\n', b'{"a":\n1}'),
        (b'data: {"a":\r"b": 1}\n\n', b'{"a":'),  # A CR ends a line too, so the rest is a line of its own.
        (b"data:  two spaces\n\n", b" two spaces"),
        (b": comment\ndata: 1\n\n", b"1"),
        (b"event: x\ndata: 1\nid: 3\n\n", b"1"),
        (b"data:\n\n", b""),
        (b": only a comment\n\n", None),
        (b"event: ping\n\n", None),
        (b"database: 1\n\n", None),
        (b" data: 1\n\n", None),
    ],
)
def test_the_data_of_an_event_comes_from_its_data_lines(event: bytes, data: bytes | None) -> None:
    assert get_event_data(event) == data
    assert SseDecoder().decode(event) == [(event, data)]


@pytest.mark.parametrize("end", [b"", *LINE_ENDS])
def test_the_end_of_a_stream_ends_its_last_event(end: bytes) -> None:
    decoder = SseDecoder()
    assert [data for _, data in decoder.decode(b"data: one\n\ndata: two" + end)] == [b"one"]
    assert decoder.finish() == [(b"data: two\n\n", b"two")]
    assert decoder.finish() == []


def test_line_ends_alone_are_no_last_event() -> None:
    decoder = SseDecoder()
    decoder.decode(b"data: one\n\n\n")
    assert decoder.finish() == []


def test_a_byte_order_mark_is_no_part_of_the_first_event() -> None:
    stream = b"\xef\xbb\xbfdata: {}\n\ndata: 2\n\n"
    for position in range(len(stream)):
        assert split_in_pieces(stream, [position]) == [b"data: {}\n\n", b"data: 2\n\n"]


def test_a_byte_order_mark_is_no_part_of_a_later_event() -> None:
    decoder = SseDecoder()
    expected = [(b"data: a\n\n", b"a"), (b"data: b\n\n", b"b")]
    assert decoder.decode(b"data: a\n\n\xef\xbb\xbfdata: b\n\n") == expected
    assert decoder.decode(b"\xef\xbb\xbfdata: b\n\n") == expected[1:]
    assert decoder.decode(b"data: \xef\xbb\xbfa\n\n") == [(b"data: \xef\xbb\xbfa\n\n", b"\xef\xbb\xbfa")]


@pytest.mark.parametrize(
    ("event", "name"),
    [(b"event: error\ndata: 1\n\n", b"error"), (b"data: 1\r\nevent:ping\r\n\r\n", b"ping"), (b"data: 1\n\n", b"")],
)
def test_an_event_has_a_name_if_it_says_so(event: bytes, name: bytes) -> None:
    assert get_event_name(event) == name


def test_an_event_with_other_data_keeps_its_other_fields() -> None:
    assert with_data(b"id: 7\r\ndata: 1\r\ndata: 2\r\n\r\n", b"3\n4") == b"id: 7\ndata: 3\ndata: 4\n\n"


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_nothing(data: bytes) -> None:
    decoder = SseDecoder()
    events = decoder.decode(data + b"\n\n")
    assert b"".join(event for event, _ in events).strip(b"\r\n") in data + b"\n\n"


def test_events_of_a_few_bytes_are_refused_when_there_are_thousands() -> None:
    assert len(SseDecoder().decode(b":\n\n" * 1_000)) == 1_000
    assert len(SseDecoder().decode(b'data: {"a":[]}\n\n' * 1_001)) == 1_001
    for tiny in (b":\n\n", b":\r\n\r\n", b"data: {}\n\n"):
        with pytest.raises(UpstreamCut, match="few bytes"):
            SseDecoder().decode(tiny * 1_001)


def test_an_event_of_too_many_elements_is_refused() -> None:
    start = b'data: {"a":['  # Four elements, with the colon after `data`.
    for count in (MAX_EVENT_ELEMENTS - 4, MAX_EVENT_ELEMENTS - 3):
        decoder = SseDecoder()
        decoder.decode(start)
        event = b"[]," * (count - 1) + b"[]]}\n\n"
        if count == MAX_EVENT_ELEMENTS - 4:
            assert decoder.decode(event) == [(start + event, (start + event)[6:-2])]
            continue
        with pytest.raises(UpstreamCut, match="100,000"):
            decoder.decode(event)
