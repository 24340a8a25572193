"""The head of a response: headers that are sent, that are refused, and that are left to gunicorn."""

from __future__ import annotations

import socket
import time
from contextlib import closing

import pytest
from gunicorn.config import Config
from gunicorn.http import get_parser, wsgi
from gunicorn.http.errors import InvalidResponseHeader
from gunicorn.http.parser import RequestParser

from app.server.request_head import ConnectionParser
from app.server.response import BufferedResponse

Headers = list[tuple[str, str]]


def respond(headers: Headers, *blocks: bytes) -> bytes:
    """Returns the bytes that a client receives as the response to a GET."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        theirs.sendall(b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n")
        config = Config()
        response = BufferedResponse(next(get_parser(config, ours, ("127.0.0.1", 1))), ours, config)
        response.start_response("200 OK", headers)
        for block in blocks:
            response.write(block)
        response.close()
        ours.shutdown(socket.SHUT_WR)
        return theirs.makefile("rb").read()


def test_the_head_has_all_headers_and_comes_with_the_body() -> None:
    headers = [("Content-Length", "2"), ("x-text", "a \t\xe9:"), ("x-empty", ""), ("x-text", "twice")]
    head, _, body = respond(headers, b"hi").partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert (lines[0], body) == (b"HTTP/1.1 200 OK", b"hi")
    assert lines[-4:] == [b"Content-Length: 2", b"x-text: a \t\xe9:", b"x-empty: ", b"x-text: twice"]
    assert b"Connection: keep-alive" in lines and b"Transfer-Encoding: chunked" not in lines


def test_a_body_without_a_length_is_chunked() -> None:
    head, _, body = respond([("x-text", "a")], b"one", b"two").partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head and body == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "wrong",
    [
        ("x-text", "a\r\nx-other: b"),
        ("x-text", "a\nx-other: b"),
        ("x-text", "a\r\n"),
        ("x-text", "a\0"),
        ("x-text", "\x7f"),
        ("x-text", "\u0101"),
        ("x\r\nx-other", "a"),
        ("x text", "a"),
        ("", "a"),
    ],
)
def test_a_header_with_invalid_characters_is_not_sent(wrong: tuple[str, str]) -> None:
    with pytest.raises(InvalidResponseHeader):
        respond([("Content-Length", "2"), wrong, ("x-last", "a")], b"hi")


def test_headers_of_the_connection_are_gunicorns_own() -> None:
    headers = [("Connection", "close"), ("Content-Length", "2"), ("transfer-encoding", "gzip"), ("x-text", "a")]
    head = respond(headers, b"hi").partition(b"\r\n\r\n")[0]
    assert b"Connection: keep-alive" in head and b"gzip" not in head and head.endswith(b"x-text: a")


REQUESTS = {
    "plain": b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
    "HEAD": b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n",
    "closing": b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
    "HTTP/1.0": b"GET / HTTP/1.0\r\nhost: a\r\n\r\n",
    "HTTP/1.0 that is kept": b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_response_is_what_gunicorn_would_send(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)

    def send(kind: type[wsgi.Response], parser: type[RequestParser], status: str, headers: Headers) -> bytes | str:
        ours, theirs = socket.socketpair()
        with closing(ours), closing(theirs):
            config = Config()
            response = kind(next(parser(config, iter([REQUESTS[name]]), ("127.0.0.1", 1))), ours, config)
            try:
                response.start_response(status, headers)
                for block in (b"one", b"", b"two"):
                    response.write(block)
                response.close()
            except Exception as error:
                return type(error).__name__
            ours.shutdown(socket.SHUT_WR)
            sent = theirs.makefile("rb").read().replace(b"X-Content-Type-Options: nosniff\r\n", b"")
            return sent + (b"close" if response.should_close() else b"keep")

    statuses = ["200 OK", "200", "404 NOT FOUND", "204 No Content", "304 Not Modified", "103 Early Hints", "500 A\tb"]
    statuses += ["20 OK", "2000 OK", "200  OK", "200 OK\r\nX: y", "OK", "", "099 OK"]
    lists: list[Headers] = [[], [("Content-Length", "6")], [("content-length", "6"), ("X-One", "a")]]
    lists += [[("Content-Length", "3")], [("Connection", "close"), ("Date", "today"), ("X-One", "a"), ("X-One", "b")]]
    lists += [[("Connection", "upgrade"), ("Upgrade", "websocket")], [("Content-Length", "six")]]
    for status in statuses:
        for headers in lists:
            theirs = send(wsgi.Response, RequestParser, status, headers)
            assert send(BufferedResponse, ConnectionParser, status, headers) == theirs, (status, headers)
            assert send(BufferedResponse, RequestParser, status, headers) == theirs, (status, headers)
