"""`traceparent` and `tracestate` are read, replaced and passed on as W3C's Trace Context specifies."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.services.traces import read_trace_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"
FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]")


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        (VALID, VALID),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-03", f"00-{TRACE}-{SPAN}-03"),
        # Undefined flags are sent as zero.
        (f"00-{TRACE}-{SPAN}-ff", f"00-{TRACE}-{SPAN}-03"),
        (f"00-{TRACE}-{SPAN}-08", f"00-{TRACE}-{SPAN}-00"),
        # Of a later version, the fields of version 00 are read, and the trace continues as version 00.
        (f"cc-{TRACE}-{SPAN}-01", VALID),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", VALID),
    ],
)
def test_a_valid_header_is_continued(header: str, sent: str) -> None:
    trace = read_trace_context(header, None)
    assert (trace.trace_id, trace.parent_id) == (TRACE, SPAN)
    assert trace.make_headers() == {"traceparent": sent}
    assert trace.make_headers("b7ad6b7169203331") == {"traceparent": sent.replace(SPAN, "b7ad6b7169203331")}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        VALID.upper(),
        VALID[:-1],
        f"{VALID}-more",
        f"{VALID}.",
        f"{VALID},{VALID}",  # Two headers, as a server joins them.
        f"cc-{TRACE}-{SPAN}-01.what",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}g-{SPAN}-01",
        f"00-{TRACE[:-2]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}",
        VALID.replace("-", "_"),
        f"00-{TRACE}-{SPAN}-0\N{ARABIC-INDIC DIGIT ONE}",
    ],
)
def test_a_malformed_header_is_replaced_and_its_state_is_left_out(header: str | None) -> None:
    first, second = (read_trace_context(header, "vendor=1") for _ in range(2))
    assert first.trace_id not in {TRACE, second.trace_id} and first.parent_id is None and first.state is None
    sent = first.make_headers()
    assert sent.keys() == {"traceparent"} and FORM.fullmatch(sent["traceparent"])


@pytest.mark.parametrize(
    "state",
    [
        "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
        "rojo=1 , \tcongo=2,,",
        "tenant@vendor=a b",
        "1tenant@v=x",
        "key=" + "v" * 256,
        ",".join(f"k{number}=v" for number in range(32)),
    ],
)
def test_a_valid_state_is_sent_on(state: str) -> None:
    sent = state.replace(" , \t", ",").rstrip(",")
    assert read_trace_context(VALID, state).make_headers() == {"traceparent": VALID, "tracestate": sent}


@pytest.mark.parametrize(
    "state",
    [
        None,
        "",
        " , ",
        "novalue",
        "KEY=v",
        "key=",
        "key=a=b",
        "key=\x7f",
        "key=ü",
        "=v",
        "a@B=v",
        "a@b@c=v",
        "key=1,key=2",
        "k" * 257 + "=v",
        "key=" + "v" * 257,
        ",".join(f"k{number}=v" for number in range(33)),
        ",".join(f"key{number}=" + "v" * 100 for number in range(5)),
    ],
)
def test_another_state_is_left_out_as_a_whole(state: str | None) -> None:
    assert read_trace_context(VALID, state).make_headers() == {"traceparent": VALID}


@given(st.text(max_size=80), st.text(max_size=600))
def test_whatever_comes_a_valid_header_goes_out(header: str, state: str) -> None:
    sent = read_trace_context(header, state).make_headers()
    assert FORM.fullmatch(sent["traceparent"])
    assert all(value.isascii() and value.isprintable() for value in sent.values())
