"""Malformed HTTP, or two requests in one, is refused in JSON and the connection closed, directly and behind nginx.

The corpus is our own, based on RFC 9112 and the known kinds of request smuggling: two lengths, two codings, line ends
that two parsers see differently, and other ambiguities.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults.nginx import NO_NGINX, Door, direct, running_nginx
from tests.support.chat import request
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

# The time by which a malformed request must be refused. It is shorter than the timeouts after which the gateway (30 s)
# and nginx (10 s) close a connection that waits for more, so that a timeout is not mistaken for a refusal.
_ENDS_WITHIN_S = 8.0

# Sent after each malformed request; a second response would be for this one.
SECOND = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

_POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %(key)s\r\n"


def _get(*lines: bytes) -> bytes:
    return b"\r\n".join([b"GET /health HTTP/1.1", b"Host: a", *lines, b"", b""])


def _post(*lines: bytes, body: bytes = b"") -> bytes:
    return _POST + b"\r\n".join([*lines, b"", body])


def _chunked(body: bytes, *lines: bytes) -> bytes:
    return _post(b"Transfer-Encoding: chunked", *lines, body=body)


REQUEST_LINES = {
    "no method": b" /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method in lower case with odd characters": b"g@t /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method with a bracket": b"GE(T /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\nHost: a\r\n\r\n",
    "no version": b"GET /health\r\nHost: a\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/0.9 with a version": b"GET /health HTTP/0.9\r\n\r\n",
    "a version of three parts": b"GET /health HTTP/1.1.1\r\nHost: a\r\n\r\n",
    "a version without a point": b"GET /health HTTP/11\r\nHost: a\r\n\r\n",
    "a version with a sign": b"GET /health HTTP/+1.1\r\nHost: a\r\n\r\n",
    "a version from the future": b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
    "another protocol": b"GET /health RTSP/1.0\r\nHost: a\r\n\r\n",
    "a protocol in lower case": b"GET /health http/1.1\r\nHost: a\r\n\r\n",
    "words behind the version": b"GET /health HTTP/1.1 more\r\nHost: a\r\n\r\n",
    "a space in the path": b"GET /hea lth HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tab between the parts": b"GET\t/health\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces between the parts": b"GET  /health  HTTP/1.1\r\nHost: a\r\n\r\n",
    "a NUL in the path": b"GET /hea\0lth HTTP/1.1\r\nHost: a\r\n\r\n",
    "a control character in the path": b"GET /hea\x07lth HTTP/1.1\r\nHost: a\r\n\r\n",
    "a bare CR in the line": b"GET /health\rX HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x01" * 60 + b"\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "JSON": b'{"model": "m"}\r\n\r\n',
    "a proxy's greeting": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
    "a line without end": b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method without end": b"G" * 70_000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n",
}

HEADERS = {
    "no colon": _get(b"X-One two"),
    "no name": _get(b": value"),
    "a space before the colon": _get(b"Content-Length : 0"),
    "a tab before the colon": _get(b"Content-Length\t: 0"),
    "a space in the name": _get(b"X One: two"),
    "a space before the first name": b"GET /health HTTP/1.1\r\n Host: a\r\n\r\n",
    "folded lines": _get(b"X-One: two", b" three"),
    "folded lines with a tab": _get(b"Transfer-Encoding:", b"\tchunked"),
    "a NUL in the name": _get(b"X-\0One: two"),
    "a NUL in the value": _get(b"X-One: t\0wo"),
    "a bare CR in the value": _get(b"X-One: t\rwo"),
    "a bare CR before the name": _get(b"\rX-One: two"),
    "a control character in the name": _get(b"X-\x01One: two"),
    "letters beyond ASCII in the name": _get(b"X-\xc3\xa9: two"),
    "brackets in the name": _get(b"X(One): two"),
    "bare LF after the request line": b"GET /health HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF everywhere": b"GET /health HTTP/1.1\nHost: a\n\n",
    "bare LF hides a header": _get(b"X-One: two\nContent-Length: 30"),
    "bare LF ends the head": b"GET /health HTTP/1.1\r\nHost: a\n\n",
    "a head without end": _get(*(b"X-%d: %b" % (number, b"x" * 900) for number in range(200))),
    "a hundred and twenty headers": _get(*(b"X-%d: x" % number for number in range(120))),
    "a value without end": _get(b"X-One: " + b"x" * 70_000),
    "a name without end": _get(b"X" * 70_000 + b": one"),
    "an expectation that nobody has": _get(b"Expect: miracles"),
}

LENGTHS = {
    "two lengths": _post(b"Content-Length: 2", b"Content-Length: 3", body=b"{}}"),
    "two equal lengths": _post(b"Content-Length: 2", b"Content-Length: 2", body=b"{}"),
    "a list of lengths": _post(b"Content-Length: 2, 3", body=b"{}}"),
    "a list of equal lengths": _post(b"Content-Length: 2, 2", body=b"{}"),
    "a negative length": _post(b"Content-Length: -1", body=b"{}"),
    "a length with a sign": _post(b"Content-Length: +2", body=b"{}"),
    "a length with an underscore": _post(b"Content-Length: 1_0", body=b"{}        "),
    "a length in hexadecimal": _post(b"Content-Length: 0x2", body=b"{}"),
    "a length that is a fraction": _post(b"Content-Length: 2.0", body=b"{}"),
    "a length in words": _post(b"Content-Length: two", body=b"{}"),
    "an empty length": _post(b"Content-Length:", body=b"{}"),
    "a length in other digits": _post("Content-Length: ２".encode(), body=b"{}"),
    "a length above all integers": _post(b"Content-Length: 99999999999999999999999", body=b"{}"),
    "a length of thousands of digits": _post(b"Content-Length: " + b"9" * 5_000, body=b"{}"),
    "a length with a space inside": _post(b"Content-Length: 1 0", body=b"{}        "),
}

CODINGS = {
    "a length and chunks": _chunked(b"0\r\n\r\n", b"Content-Length: 5"),
    "chunks and a length": _post(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "chunks twice": _chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked"),
    "chunks and identity": _chunked(b"0\r\n\r\n", b"Transfer-Encoding: identity"),
    "chunks before gzip": _post(b"Transfer-Encoding: chunked, gzip", body=b"0\r\n\r\n"),
    "an unknown coding": _post(b"Transfer-Encoding: magic", body=b"0\r\n\r\n"),
    "a coding in quotes": _post(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n"),
    "a coding behind a vertical tab": _post(b"Transfer-Encoding: \x0bchunked", body=b"0\r\n\r\n"),
    "a coding with words behind it": _post(b"Transfer-Encoding: chunked foo", body=b"0\r\n\r\n"),
    "a coding with a prefix": _post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "an empty coding": _post(b"Transfer-Encoding:", b"Content-Length: 2", body=b"{}"),
    "a coding with a space before the colon": _post(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n"),
    "a coding whose name has an underscore and a length": _post(
        b"Transfer_Encoding: chunked", b"Content-Length: -5", body=b"0\r\n\r\n"
    ),
    "chunks in HTTP/1.0": _chunked(b"0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0"),
}

CHUNKS = {
    "a size that is no number": _chunked(b"zz\r\n{}\r\n0\r\n\r\n"),
    "a size with a sign": _chunked(b"+2\r\n{}\r\n0\r\n\r\n"),
    "a negative size": _chunked(b"-2\r\n{}\r\n0\r\n\r\n"),
    "a size with 0x": _chunked(b"0x2\r\n{}\r\n0\r\n\r\n"),
    "a size with an underscore": _chunked(b"0_2\r\n{}\r\n0\r\n\r\n"),
    "an empty size": _chunked(b"\r\n{}\r\n0\r\n\r\n"),
    "a size with a space before it": _chunked(b" 2\r\n{}\r\n0\r\n\r\n"),
    "a size without end": _chunked(b"1" * 20_000 + b"\r\n{}\r\n0\r\n\r\n"),
    "a chunk that is longer than its size": _chunked(b"2\r\n{}}}\r\n0\r\n\r\n"),
    "a chunk that is shorter than its size": _chunked(b"9\r\n{}\r\n0\r\n\r\n"),
    "a chunk that ends in LF": _chunked(b"2\r\n{}\n0\r\n\r\n"),
    "a size that ends in LF": _chunked(b"2\n{}\r\n0\r\n\r\n"),
    "an extension without end": _chunked(b"2;" + b"x" * 20_000 + b"\r\n{}\r\n0\r\n\r\n"),
    "an extension with a bare CR": _chunked(b"2;a\rb\r\n{}\r\n0\r\n\r\n"),
    "a trailer without a colon": _chunked(b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n"),
}

CORPUS: dict[str, bytes] = {
    f"{group}: {name}": content
    for group, cases in {
        "line": REQUEST_LINES,
        "header": HEADERS,
        "length": LENGTHS,
        "coding": CODINGS,
        "chunk": CHUNKS,
    }.items()
    for name, content in cases.items()
}

# Unusual but valid requests, which must not be refused.
FINE = {
    "an empty line before the request": b"\r\n" + SECOND,
    "the absolute form": b"GET http://a/health HTTP/1.1\r\nHost: a\r\n\r\n",
    "blanks around a value": _get(b"X-One: \t two \t "),
    "an empty value": _get(b"X-One:"),
    "a name in odd case": _get(b"x-oNe: two"),
    "HTTP/1.0": b"GET /health HTTP/1.0\r\n\r\n",
}


@pytest.fixture(scope="module", autouse=True)
def workers_before(scripted_gateway: Gateway) -> list[int]:
    """The process ids of the workers before the first malformed request."""
    return scripted_gateway.worker_pids()


@pytest.fixture(scope="module", params=["direct", "nginx"])
def door(
    request: pytest.FixtureRequest, scripted_gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    """The gateway's own port, then nginx in front of it."""
    if request.param == "direct":
        yield direct(scripted_gateway)
        return
    if NO_NGINX:
        pytest.skip(NO_NGINX)
    with running_nginx(scripted_gateway, Path(tmp_path_factory.mktemp("malformed"))) as behind:
        yield behind


def exchange(door: Door, content: bytes) -> bytes:
    """Sends bytes and returns everything received until the connection is closed.

    Raises:
        AssertionError: it was not closed.
    """
    received = b""
    connection = socket.create_connection(("127.0.0.1", door.port), timeout=0.5)
    until_s = time.monotonic() + _ENDS_WITHIN_S
    # The gateway may close the connection before it has read all of a long request.
    with connection, suppress(ConnectionResetError, BrokenPipeError):
        connection.sendall(content.replace(b"%(key)s", door.key.encode()))
        while True:
            try:
                piece = connection.recv(65_536)
            except TimeoutError:
                assert time.monotonic() < until_s, f"no end after {received!r}"
                if received:
                    connection.shutdown(
                        socket.SHUT_WR
                    )  # The response is here, and the gateway waits for the rest of the body.
                continue
            if not piece:
                break
            received += piece
    return received


def check_refused(received: bytes) -> None:
    """Fails unless the received bytes are one 4xx, 501 or 505 in JSON, or empty."""
    assert len(re.findall(rb"HTTP/1\.[01] \d", received)) <= 1, "there was a second answer"
    assert b"<html" not in received.lower()
    if not received:
        return
    head, _, body = received.partition(b"\r\n\r\n")
    status = int(head.split(b" ")[1])
    assert 400 <= status < 500 or status in {501, 505}
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


def check_no_fault(received: bytes) -> None:
    """Fails on a fault of the gateway only, because nginx turns many malformed requests into valid ones."""
    assert b"<html" not in received.lower()
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d+)", received)]
    assert all(status < 500 or status in {501, 505} for status in statuses)


@pytest.mark.parametrize("name", CORPUS)
def test_a_malformed_request_is_refused_in_json_and_the_connection_closed(door: Door, name: str) -> None:
    received = exchange(door, CORPUS[name] + SECOND)
    if door.name == "nginx" and name.partition(":")[0] in {"line", "header", "chunk"}:
        check_no_fault(received)
    else:
        check_refused(received)


@pytest.mark.parametrize("name", FINE)
def test_what_is_odd_but_right_is_served(door: Door, name: str) -> None:
    assert b" 200 OK\r\n" in exchange(door, FINE[name].replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (400, b"GET /health\r\n\r\n"),
        (414, b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
        (431, _get(b"X-Long: " + b"x" * 9_000)),
    ],
)
def test_what_cannot_be_parsed_has_an_id_in_the_response_and_in_the_log(
    scripted_gateway: Gateway, status: int, content: bytes
) -> None:
    # Sent after another request on the same connection, whose id must not be reused.
    received = exchange(direct(scripted_gateway), _get() + content)
    first, last = re.findall(rb"(?im)^x-request-id: (\S+)\r$", received)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", str(status).encode()] and first != last
    (line,) = [line for line in scripted_gateway.log().splitlines() if last.decode() in line]
    said = json.loads(line)
    assert (said["level"], said["event"], said["request_id"]) == ("warning", "request_parsing_failed", last.decode())
    assert said["message"].startswith("Invalid request from ip=127.0.0.1")


@pytest.mark.parametrize(
    ("status", "line", "header", "advice"),
    [
        (400, "/v1/messages", "Content-Length: two", "not a valid HTTP request"),
        (414, "/v1/messages?" + "x" * 5_000, "X: y", "Shorten the URL"),
        (417, "/v1/messages/count_tokens", "Expect: miracles", "not a valid HTTP request"),
        (431, "/v1/messages", "X-Long: " + "x" * 9_000, "fewer or shorter headers"),
        (431, "/v1/messages", "X-Long: y\r\n" * 200 + "X: y", "fewer or shorter headers"),
        (501, "/v1/messages?beta=true", "Transfer-Encoding: magic", "not a valid HTTP request"),
        (400, "/v1/messagesx", "Content-Length: two", "not a valid HTTP request"),
        (431, "/v1/responses", "X-Long: " + "x" * 9_000, "fewer or shorter headers"),
    ],
)
def test_what_cannot_be_parsed_has_the_error_shape_of_its_path(
    scripted_gateway: Gateway, status: int, line: str, header: str, advice: str
) -> None:
    received = exchange(direct(scripted_gateway), f"POST {line} HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode())
    head, _, body = received.partition(b"\r\n\r\n")
    headers = dict(re.findall(r"(?m)^([\w-]+): (.*?)\r?$", head.decode().lower()))
    shown = json.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % status) and advice in shown["error"]["message"]
    if line.startswith(("/v1/messages?", "/v1/messages/")) or line == "/v1/messages":
        assert shown["request_id"] == headers["request-id"] == headers["x-request-id"]
        kind = "api_error" if status == 501 else "invalid_request_error"
        assert (shown["type"], shown["error"]["type"]) == ("error", kind)
    else:
        assert "code" in shown["error"] and "request-id" not in headers


def test_a_refused_body_without_end_holds_nobody_up(scripted_gateway: Gateway) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", scripted_gateway.port), timeout=20) as connection:
        connection.sendall(head)
        answered = connection.recv(65_536)
        connection.setblocking(False)
        until_s = time.monotonic() + 1.5
        sent, asked = 0, 0
        while time.monotonic() < until_s:
            with suppress(BlockingIOError):
                sent += connection.send(b"x" * 1_000_000)
            if sent > asked * 20_000_000:  # From time to time, while the first request always has more to read.
                assert request("GET", f"{scripted_gateway.url}/health").status == 200
                asked += 1
    assert b" 401 " in answered and asked > 1


def test_the_workers_are_those_of_the_beginning(scripted_gateway: Gateway, workers_before: list[int]) -> None:
    # The tests above have sent all of the corpus by now.
    assert scripted_gateway.worker_pids() == workers_before
    assert "Traceback" not in scripted_gateway.log()
    wait_until(lambda: request("GET", f"{scripted_gateway.url}/health").status == 200)
