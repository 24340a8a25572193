"""Requests as bytes, cut anywhere: the parser of plain heads and gunicorn's own parser agree on them.

They must agree on the requests with their environs and bodies, and on the error at the end, with its text.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.server.request_head import ConnectionParser, PlainRequest, create
from tests.support.soak import FULL

PROXY, STRANGER, LISTENER = ("127.0.0.1", 4711), ("192.0.2.1", 4711), ("10.0.0.1", 8000)
# Objects that belong to a single request and so differ between the parsers.
OBJECTS = {"wsgi.input", "wsgi.errors", "wsgi.early_hints"}
# The sizes of the reads of each body: nothing, a part of it, a line, or all.
READS: dict[str, list[int | None]] = {
    "nothing": [],
    "all": [-1],
    "parts": [3, 1, 5_000],
    "length": [None],
    "past its end": [-1, 5],
}


def make_config(**options: Any) -> Config:
    return _make_config(json.dumps(options))


@cache
def _make_config(options: str) -> Config:
    config = Config()
    for name, value in json.loads(options).items():
        config.set(name, value)
    return config


def read_requests(
    kind: type[RequestParser], pieces: Sequence[bytes], config: Config, peer: Any, reads: Sequence[int | None]
) -> list[Any]:
    """Returns the results of a parser for the bytes of a connection: each request, and how the parsing ended."""
    parser = kind(config, iter([piece for piece in pieces if piece]), peer)
    seen: list[Any] = []
    with socket.socket() as connection:
        try:
            for req in parser:
                if isinstance(req, PlainRequest):
                    _, environ = create(req, connection, peer, LISTENER, config)
                else:
                    _, environ = wsgi.create(req, connection, peer, LISTENER, config)
                    environ["wsgi.multithread"] = True
                body = [environ["wsgi.input"].read(size) for size in reads]
                parts = req.method, req.uri, req.path, req.query, req.fragment, req.version, req.scheme
                shared = {key: str(value) for key, value in environ.items() if key not in OBJECTS}
                seen.append((*parts, sorted(req.headers), req.should_close(), shared, body))
                req.proxy_protocol_info = None
        except Exception as error:
            seen.append((type(error).__name__, str(error)))
    return seen


def read_both(
    pieces: Sequence[bytes], config: Config, peer: Any = PROXY, reads: Sequence[int | None] = (-1,)
) -> list[Any]:
    """Returns the results of both parsers, after checking that they are equal."""
    ours = read_requests(ConnectionParser, pieces, config, peer, reads)
    assert ours == read_requests(RequestParser, pieces, config, peer, reads)
    return ours


def cut(data: bytes, positions: Sequence[int]) -> list[bytes]:
    """Returns the pieces of some bytes."""
    ends = sorted({min(position, len(data)) for position in positions} | {0, len(data)})
    return [data[start:end] for start, end in zip(ends, ends[1:], strict=False)]


GUNICORNS = {
    case["name"]: case
    for case in json.loads((Path(__file__).parent / "gunicorn_requests.json").read_text("utf-8"))["requests"]
}


@pytest.mark.parametrize("name", GUNICORNS)
def test_requests_of_gunicorns_own_tests_mean_what_they_mean_to_gunicorn(name: str) -> None:
    case: Mapping[str, Any] = GUNICORNS[name]
    data = "".join(part if isinstance(part, str) else part[0] * part[1] for part in case["bytes"]).encode("latin-1")
    config = make_config(**case.get("settings", {}))
    lines = re.findall(rb".*?\r\n|.+", data, re.DOTALL)
    seen = read_both([data], config)
    assert seen[-1][0] == case["error"] if "error" in case else len(seen[0]) > len(("error", "text"))
    for peer in (PROXY, STRANGER):
        for pieces in (lines, cut(data, range(0, len(data), 7)), [data[:-1], data[-1:]], [data, data]):
            # Cut into lines, in small pieces, with the last byte alone, and two requests in a row.
            read_both(pieces, config, peer)


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\n"
PLAIN = {
    "a body": HEAD + b"Content-Length: 2\r\n\r\n{}",
    "half a body": HEAD + b"Content-Length: 4\r\n\r\n{}",
    "more than a body": HEAD + b"Content-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\n",
    "no body": b"GET /v1/models?limit=2&after=%2f HTTP/1.1\r\nhost: gateway\r\n\r\n",
    "a path in percent-encoding": b"GET /v1/models/a%2Fb%c3%a9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "odd blanks": HEAD + b"X-One:\r\nX-Two: \t a \t b\r\nX-Three:c\r\nContent-Length:  002\r\n\r\n{}",
    "odd characters": b"DELETE /a|b;c?? HTTP/1.1\r\n!#$%&'*+-.^`|~09Az: \xe9\xff\r\n\r\n",
    "the end of a connection": HEAD + b"Connection: Close\r\n\r\n",
    "a proxy's scheme": HEAD + b"X-Forwarded-Proto: https\r\n\r\n",
    "another scheme": HEAD + b"X-Forwarded-Ssl: off\r\n\r\n",
    "CONTENT_LENGTH under another name": HEAD + b"Http-Content-Length: 5\r\nX-Content-Length: 7\r\n\r\n",
}
# Each of these could be misread by a parser that is less exact than gunicorn's.
UNUSUAL = {
    "HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "HTTP/1.1 in another case": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "no fields": b"GET / HTTP/1.1\r\n\r\n",
    "an empty line before it": b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a rare method": b"PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path that looks like a host": b"GET //a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    "a whole address": b"GET http://b/health HTTP/1.1\r\nHost: a\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "a fragment": b"GET /health#a HTTP/1.1\r\nHost: a\r\n\r\n",
    "bytes beyond ASCII in the path": b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length and chunks": HEAD + b"Content-Length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks behind a vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\ncontent-length: 3\r\n\r\n{}}",
    "two equal lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "a length with a sign": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "no length": HEAD + b"Content-Length:\r\n\r\n{}",
    "a length in superscript": HEAD + b"Content-Length: \xb2\r\n\r\n{}",
    "a long length": HEAD + b"Content-Length: 0000000000000002\r\n\r\n{}",
    "two hosts": HEAD + b"HOST: b\r\n\r\n",
    "a field twice": HEAD + b"X-One: a\r\nx-one: b\r\n\r\n",
    "an underscore in a name": HEAD + b"Content_Length: 2\r\n\r\n{}",
    "a space before the colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "a folded line": HEAD + b"X-One: a\r\n b\r\n\r\n",
    "a blank after a value": HEAD + b"Content-Length: 2 \r\n\r\n{}",
    "a bare LF": HEAD + b"X-One: a\nContent-Length: 2\r\n\r\n{}",
    "a bare CR": HEAD + b"X-One: a\rContent-Length: 2\r\n\r\n{}",
    "a NUL": HEAD + b"X-One: a\0\r\n\r\n",
    "a DEL": HEAD + b"X-One: a\x7f\r\n\r\n",
    "no colon": HEAD + b"X-One\r\n\r\n",
    "no name": HEAD + b": a\r\n\r\n",
    "a name beyond ASCII": HEAD + b"X-\xdf: a\r\n\r\n",
    "an expectation": HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    "an unknown expectation": HEAD + b"Expect: miracles\r\n\r\n",
    "an upgrade": HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "two schemes that agree": HEAD + b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: on\r\n\r\n",
    "two schemes that differ": HEAD + b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n",
    "a long field": HEAD + b"X-One: " + b"x" * 5_000 + b"\r\n\r\n",
    "many fields": HEAD + b"".join(b"X-%d: a\r\n" % number for number in range(200)) + b"\r\n",
    "a head that is not all there": HEAD,
    "a proxy's greeting": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + HEAD + b"\r\n",
}


def is_plain(data: bytes, peer: Any = PROXY, **options: Any) -> bool:
    """Returns whether a request is parsed without gunicorn's parser; False if it is refused."""
    try:
        return isinstance(next(ConnectionParser(make_config(**options), iter([data]), peer)), PlainRequest)
    except Exception:
        return False


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_head_is_read_without_gunicorn_and_means_the_same(name: str) -> None:
    data = PLAIN[name]
    assert is_plain(data) and is_plain(data, STRANGER)
    for peer in (PROXY, STRANGER):
        for reads in READS.values():
            # The second request of a connection reuses a part of the first one's environ.
            requests = read_both([data + data], make_config(), peer, reads)
            assert len(requests) >= 1
    # No request is plain if a setting of gunicorn changes the meaning of a head, or limits it further.
    for options in ({"proxy_protocol": True}, {"limit_request_line": 20}, {"limit_request_field_size": 20}):
        assert not is_plain(data, **options)
        read_both([data], make_config(**options))
    assert not is_plain(data, "")  # The peer of a Unix socket.


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_head_is_gunicorns(name: str) -> None:
    data = UNUSUAL[name]
    assert not is_plain(data)
    for peer in (PROXY, STRANGER):
        read_both([data, PLAIN["a body"]], make_config(), peer)
        read_both([PLAIN["a body"] + data + PLAIN["a body"]], make_config(), peer)


def test_the_limit_on_fields_is_gunicorns() -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nX-One: b\r\nX-Two: c\r\n\r\n"
    assert is_plain(head, limit_request_fields=3) and not is_plain(head, limit_request_fields=2)
    assert read_both([head], make_config(limit_request_fields=2))[-1][0] == "LimitRequestHeaders"


def test_a_prefix_of_the_path_is_gunicorns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPT_NAME", "/prefix")
    config = Config()  # A new one, because the decision is cached for each configuration.
    request = next(ConnectionParser(config, iter([PLAIN["no body"]]), PROXY))
    assert not isinstance(request, PlainRequest)


NAMES = [
    "Host",
    "host",
    "Content-Length",
    "content-length",
    "Transfer-Encoding",
    "Connection",
    "Content-Type",
    "Expect",
]
NAMES += ["Upgrade", "X-Forwarded-Proto", "X-Forwarded-Ssl", "X-Forwarded-For", "x_one", "X-One", "SCRIPT_NAME", "TE"]
VALUES = ["", "a", "2", "02", "7", "+2", "2,2", "chunked", "gzip, chunked", "close", "keep-alive", "Upgrade", "https"]
VALUES += ["on", "100-continue", " a ", "\ta\t", "\xe9", "http"]
ODD_BYTES = [b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"_", b"/", b"?", b"#", b"%", b"\x7f", b"\xb2", b","]
BODIES = [
    b"",
    b"{}",
    b"0\r\n\r\n",
    b"2\r\n{}\r\n0\r\n\r\n",
    b"2;a=b\r\n{}\r\n0\r\nX-T: a\r\n\r\n",
    b"1234567",
    b"GET / ",
]
CONFIGS: list[dict[str, Any]] = [
    {},
    {},
    {},
    {"header_map": "drop"},
    {"header_map": "dangerous"},
    {"proxy_protocol": True},
]
CONFIGS += [{"limit_request_line": 30}, {"limit_request_fields": 3}, {"limit_request_field_size": 24}]
CONFIGS += [{"limit_request_line": 0}, {"limit_request_fields": 0}, {"limit_request_field_size": 0}]
CONFIGS += [
    {"permit_obsolete_folding": True},
    {"strip_header_spaces": True},
    {"secure_scheme_headers": {"X-ONE": "a", "x-one": "b", "X_ONE": "c"}},
]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Draws the bytes of a request that is mostly well-formed."""
    method = draw(st.sampled_from(["GET", "POST", "POST", "HEAD", "OPTIONS", "CONNECT", "get", "PUT"]))
    target = draw(
        st.sampled_from(["/", "/v1/chat/completions", "/a%2Fb?c=d&e", "//a/b", "*", "http://a/b", "a:1", "/a#b"])
    )
    version = draw(st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0", "http/1.1"]))
    name = st.sampled_from(NAMES) | st.from_regex(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,8}", fullmatch=True)
    text = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=8)
    value = st.sampled_from(VALUES) | text
    separator = st.sampled_from([": ", ": ", ": ", ":", ":\t"])
    fields = draw(st.lists(st.tuples(name, separator, value), max_size=6))
    body = draw(st.sampled_from(BODIES))
    if body and draw(st.booleans()):
        fields.append(("Content-Length", ": ", str(len(body))))
    lines = [f"{method} {target} {version}", *("".join(field) for field in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@st.composite
def connections(draw: st.DrawFn) -> bytes:
    """Draws the bytes of some requests, with some bytes replaced."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    position = st.integers(0, len(data))
    for start, size, odd in draw(
        st.lists(st.tuples(position, st.integers(0, 2), st.sampled_from(ODD_BYTES)), max_size=2)
    ):
        data = data[:start] + odd + data[start + size :]
    return data


@settings(max_examples=10_000 if FULL else 100, deadline=None, derandomize=not FULL)
@given(
    connections(),
    st.lists(st.integers(0, 400), max_size=4),
    st.sampled_from(CONFIGS),
    st.sampled_from([PROXY, STRANGER, ""]),
    st.sampled_from(list(READS.values())),
)
@example(PLAIN["a body"], [], {}, PROXY, [-1])
def test_any_bytes_cut_anywhere_mean_what_they_mean_to_gunicorn(
    data: bytes, positions: list[int], options: dict[str, Any], peer: Any, reads: list[int | None]
) -> None:
    read_both(cut(data, positions), make_config(**options), peer, reads)
