"""Bodies cut at every byte: the payload is always the same, and a beginning never counts as a complete body."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import UpstreamCut
from app.upstream.transfer_coding import ChunkedDecoder, CloseDecoder, LengthDecoder
from tests.support.soak import examples

BODY = b'5;name=value\r\nhello\r\n00A\r\n, wide\r\n\r\n\r\n1\r\n!\r\n0;last="a;b"\r\nX-Trailer: 1\r\nx-more:\r\n\r\n'
PAYLOAD = b"hello, wide\r\n\r\n!"

EXTENSIONS = st.sampled_from(["", ";a", "; a=b", ';q="x;y"', " ", ";" + "e" * 300])
TRAILERS = st.lists(st.sampled_from(["x-checksum: 1", "server-timing: a;dur=1", "x:"]), max_size=3)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Draws a body in chunked coding and its payload."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    coded = b""
    for piece in pieces:
        size = f"{len(piece):{draw(st.sampled_from(['x', 'X', '04x']))}}"
        coded += f"{size}{draw(EXTENSIONS)}\r\n".encode() + piece + b"\r\n"
    last = "0" * draw(st.integers(1, 5)) + draw(EXTENSIONS)
    coded += "\r\n".join([last, *draw(TRAILERS), "", ""]).encode()
    return coded, b"".join(pieces)


def cut(data: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in positions), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False) if start < end]


@pytest.mark.parametrize("position", range(len(BODY)))
def test_a_chunked_body_cut_in_two_at_any_byte_has_the_same_payload(position: int) -> None:
    decoder = ChunkedDecoder()
    first = decoder.decode(BODY[:position])
    assert not decoder.complete and not decoder.finish()
    assert first + decoder.decode(BODY[position:]) == PAYLOAD
    assert decoder.complete and decoder.finish()


@settings(max_examples=examples(150), deadline=None)
@given(chunked_bodies(), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_chunked_body_in_any_pieces_has_its_payload(body: tuple[bytes, bytes], positions: list[int]) -> None:
    coded, payload = body
    decoder = ChunkedDecoder()
    assert b"".join(decoder.decode(piece) for piece in cut(coded, positions)) == payload
    assert decoder.complete


@settings(max_examples=examples(100), deadline=None)
@given(chunked_bodies(), st.integers(0, 10_000))
def test_a_beginning_of_a_chunked_body_is_never_complete(body: tuple[bytes, bytes], position: int) -> None:
    coded, payload = body
    decoder = ChunkedDecoder()
    assert payload.startswith(decoder.decode(coded[: position % len(coded)]))
    assert not decoder.complete and not decoder.finish()


def test_a_chunked_body_byte_by_byte_has_its_payload() -> None:
    decoder = ChunkedDecoder()
    assert b"".join(decoder.decode(BODY[at : at + 1]) for at in range(len(BODY))) == PAYLOAD
    assert decoder.complete


@pytest.mark.parametrize(
    "garbage",
    [
        b"zz\r\n",
        b"\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"1_0\r\n",
        b"5 5\r\nhello",
        b"\xc2\xb2\r\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello5\r\nhello\r\n",
        b"data: {}\n\n",
        b"HTTP/1.1 200 OK\r\n",
        b"a" * 2000,
        b"5;" + b"e" * 2000,
        b"f" * 100 + b"\r\n",
    ],
)
def test_invalid_chunked_coding_is_an_error(garbage: bytes) -> None:
    decoder = ChunkedDecoder()
    decoder.decode(garbage)
    assert isinstance(decoder.error, UpstreamCut) and not decoder.complete


def test_the_payload_before_an_error_is_not_lost() -> None:
    decoder = ChunkedDecoder()
    assert decoder.decode(b"5\r\nhello\r\n2\r\n, \r\nzz\r\n") == b"hello, "
    assert isinstance(decoder.error, UpstreamCut)


def test_bytes_after_the_end_do_not_change_the_payload_and_are_reported() -> None:
    decoder = ChunkedDecoder()
    assert decoder.decode(b"5\r\nhello\r\n0\r\n\r\n\r\n") == b"hello"
    assert decoder.complete and decoder.has_excess


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=8))
def test_garbage_is_an_error_or_incomplete_and_raises_nothing(pieces: list[bytes]) -> None:
    decoder = ChunkedDecoder()
    for piece in pieces:
        decoder.decode(piece)
        if decoder.error is not None:
            return
    assert decoder.finish() == decoder.complete


@settings(max_examples=examples(100), deadline=None)
@given(st.binary(max_size=100), st.lists(st.integers(0, 100), max_size=6))
def test_a_body_of_a_known_length_ends_with_its_last_byte(payload: bytes, positions: list[int]) -> None:
    decoder = LengthDecoder(len(payload))
    received = b""
    for piece in cut(payload, positions):
        assert not decoder.complete and not decoder.finish()
        received += decoder.decode(piece)
    assert received == payload and decoder.complete and decoder.finish()


def test_bytes_after_the_announced_length_are_not_part_of_the_body() -> None:
    decoder = LengthDecoder(4)
    assert decoder.decode(b"bodyHTTP/1.1") == b"body"
    assert decoder.complete


def test_a_body_without_a_length_lasts_until_the_connection_ends() -> None:
    decoder = CloseDecoder()
    assert decoder.decode(b"some") + decoder.decode(b"thing") == b"something"
    assert not decoder.complete
    assert decoder.finish() and decoder.complete


def test_bursts_of_tiny_chunks_are_refused_after_their_payload_once_there_are_ten_thousand() -> None:
    decoder = ChunkedDecoder()
    for _ in range(5):
        assert decoder.error is None
        assert decoder.decode(b"1\r\nx\r\n" * 2_001) == b"x" * 2_001
    assert decoder.error is not None and "few bytes" in decoder.error.message
    for fine in (b"1\r\nx\r\n" * 1_000, (b"20\r\n" + b"x" * 32 + b"\r\n") * 1_500):
        decoder = ChunkedDecoder()
        for _ in range(20):
            decoder.decode(fine)
        assert decoder.error is None
