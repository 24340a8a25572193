"""One connection with plain and unusual requests in turn, read by two parsers: neither takes a byte of the other's."""

from __future__ import annotations

import json
import re
import socket

from tests.support.chat import PREFIX, chat_body, read_until
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.waiting import PATIENCE_S

# Longer than a single receive.
LONG = "x" * 20_000


def make_request(gateway: Gateway, text: str, *headers: str, chunked: bool = False) -> tuple[bytes, bytes]:
    """Returns head and body of a chat request."""
    body = json.dumps(chat_body(f"{PREFIX}scripted") | {"messages": [{"role": "user", "content": text}]}).encode()
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: a", f"Authorization: Bearer {gateway.key}", length, *headers]
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    return "\r\n".join([*lines, "", ""]).encode(), framed


def receive_responses(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Returns the statuses and bodies of so many responses, all of which have a Content-Length."""
    received, responses = b"", list[tuple[int, bytes]]()
    while len(responses) < count:
        head, end, rest = received.partition(b"\r\n\r\n")
        found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if end and found and len(rest) >= int(found[1]):
            responses.append((int(head.split(b" ")[1]), rest[: int(found[1])]))
            received = rest[int(found[1]) :]
            continue
        piece = connection.recv(65_536)
        assert piece, f"the connection was closed after {responses} and {received!r}"
        received += piece
    assert received == b""
    return responses


def test_plain_and_unusual_requests_follow_each_other_on_a_connection(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    kinds = [
        make_request(scripted_gateway, "plain"),
        make_request(scripted_gateway, "in chunks", chunked=True),
        make_request(scripted_gateway, LONG),
        make_request(scripted_gateway, "a field twice", "X-One: a", "X-One: b"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b""),
        (b"\r\nGET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", b""),
        (b"HEAD /nowhere HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n", b""),
    ]
    statuses = [200, 200, 200, 200, 200, 404, 404, 200]
    everything = b"".join(head + body for head, body in kinds[:-1])
    address = "127.0.0.1", scripted_gateway.port
    with socket.create_connection(address, timeout=PATIENCE_S) as connection:
        connection.sendall(everything)
        whole = receive_responses(connection, 6)
        connection.sendall(everything[:-1])
        assert [status for status, _ in receive_responses(connection, 5)] == statuses[:5]
        connection.sendall(everything[-1:] + everything)
        assert [status for status, _ in receive_responses(connection, 7)] == [404, *statuses[:6]]
        connection.sendall(kinds[-1][0])
        assert read_until(connection, b'"ok"').count(b"HTTP/1.1 ") == 2
    assert [status for status, _ in whole] == statuses[:6]
    upstream.wait_for(lambda sent: LONG in str(sent.body))
    bodies = str([sent.body for sent in upstream.requests])
    assert all(f'"{text}"' in bodies for text in ("plain", "in chunks", "a field twice"))


def test_a_client_that_waits_for_100_continue_gets_it_also_after_a_plain_request(scripted_gateway: Gateway) -> None:
    plain, waiting = (
        make_request(scripted_gateway, "plain"),
        make_request(scripted_gateway, "waits", "Expect: 100-continue"),
    )
    with socket.create_connection(("127.0.0.1", scripted_gateway.port), timeout=PATIENCE_S) as connection:
        for _ in range(2):
            connection.sendall(plain[0] + plain[1])
            assert receive_responses(connection, 1)[0][0] == 200
            connection.sendall(waiting[0])
            assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(waiting[1])
            assert receive_responses(connection, 1)[0][0] == 200
