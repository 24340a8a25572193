"""Malicious bodies: endless, in tiny chunks, or a byte at a time. None delays another caller."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.support.answers import chunk, event_bytes, head
from tests.support.chat import PREFIX, chat_body, open_chat, post, read_until, request_head, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, Script, send, wait_for
from tests.support.waiting import PATIENCE_S

# The number of events of the stream, each of which waits until the client has received the one before.
STEPS = 20
TINY_CHUNKS = b"1\r\nx\r\n" * 20_000


def chunked_head(key: str | None, path: str = "/v1/chat/completions") -> bytes:
    """Returns the head of a request with a chunked body."""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"POST {path} HTTP/1.1\r\nHost: gateway\r\n{authorization}Transfer-Encoding: chunked\r\n\r\n".encode()


def connect(gateway: Gateway) -> socket.socket:
    """Returns a connection to the gateway."""
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S)


def read_to_end(connection: socket.socket) -> bytes:
    """Receives until the connection is closed."""
    received = b""
    with suppress(OSError):
        while piece := connection.recv(65_536):
            received += piece
    return received


@contextmanager
def endless_uploads(gateway: Gateway, start: bytes, piece: bytes, count: int) -> Iterator[None]:
    """Sends `start` and then `piece` without a pause on `count` connections, and opens a new one when one is closed."""
    connections: list[socket.socket] = []
    is_over = threading.Event()
    has_begun = threading.Barrier(count + 1)

    def send_forever() -> None:
        waits = True
        while not is_over.is_set():
            with suppress(OSError), connect(gateway) as connection:
                connections.append(connection)
                threading.Thread(target=read_to_end, args=[connection], daemon=True).start()
                connection.sendall(start)
                while not is_over.is_set():
                    connection.sendall(piece)
                    if waits:
                        has_begun.wait(PATIENCE_S)
                        waits = False

    threads = [threading.Thread(target=send_forever) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        has_begun.wait(PATIENCE_S)
        yield
    finally:
        is_over.set()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


# Path, whether the key is sent, and the bytes that are sent endlessly.
UPLOADS = {
    "tiny chunks without a key": ("/v1/chat/completions", False, TINY_CHUNKS),
    "tiny chunks with a key": ("/v1/chat/completions", True, TINY_CHUNKS),
    "tiny chunks to a path that takes no body": ("/health", False, TINY_CHUNKS),
    "large chunks without a key": ("/v1/chat/completions", False, b"10000\r\n" + b"x" * 65_536 + b"\r\n"),
    "requests": (None, False, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 200),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_a_stream_goes_on_while_others_upload_without_end(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, name: str
) -> None:
    gates = [Gate() for _ in range(STEPS)]
    script: Script = [send(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))]
    for number, gate in enumerate(gates):
        content = event_bytes(chunk(f"<{number}>"))
        script += [wait_for(gate), send(b"%x\r\n%b\r\n" % (len(content), content))]
    upstream.on_model("watched", script)
    path, has_key, piece = UPLOADS[name]
    start = b"" if path is None else chunked_head(scripted_gateway.key if has_key else None, path)
    # One deadline for all steps, which a worker would miss if it served the stream only now and then.
    finished = threading.Event()

    def watch() -> None:
        with open_chat(scripted_gateway, f"{PREFIX}watched") as connection:
            for number, gate in enumerate(gates):
                gate.open()
                read_until(connection, f"<{number}>".encode())
        finished.set()

    with endless_uploads(scripted_gateway, start, piece, 2):
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        assert finished.wait(PATIENCE_S), "the stream did not go on"
    watcher.join()
    for gate in gates:
        gate.close()


def test_a_body_of_endless_tiny_chunks_is_refused_and_its_connection_closed(scripted_gateway: Gateway) -> None:
    with connect(scripted_gateway) as connection:
        connection.sendall(chunked_head(scripted_gateway.key) + TINY_CHUNKS + b"1\r\nx\r\n")
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 400 ") and b"\r\nConnection: close\r\n" in received
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["code"] == "chunks_too_small"


def test_a_body_may_come_token_by_token(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    messages = [{"role": "user", "content": f"message {number}"} for number in range(1_500)]
    body = chat_body(f"{PREFIX}scripted") | {"messages": messages}
    tokens = list(json.JSONEncoder().iterencode(body))
    assert len(tokens) > 10_000
    seen = post(scripted_gateway, (token.encode() for token in tokens))
    assert seen.status == 200
    assert upstream.wait_for(lambda request: "scripted" in str(request.body)).json["messages"] == messages


def test_a_body_that_drips_is_ended_after_its_total_time(hasty_gateway: Gateway, session_database_url: str) -> None:
    stop = threading.Event()
    with connect(hasty_gateway) as connection:
        connection.sendall(request_head(hasty_gateway, 1_000))

        def drip() -> None:
            with suppress(OSError):
                # Less than CLIENT_SEND_TIMEOUT passes between two bytes, so only the total timeout ends this.
                while not stop.wait(0.3):
                    connection.sendall(b" ")

        dripping = threading.Thread(target=drip)
        dripping.start()
        received = read_until(connection, b"body_timeout")
        stop.set()
        dripping.join()
    assert received.startswith(b"HTTP/1.1 408 ") and b"\r\nConnection: close\r\n" in received
    request_id = received.lower().partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    row = wait_for_row(session_database_url, request_id)
    assert (row["outcome"], row["status"], row["error_code"]) == ("rejected", 408, "body_timeout")


def test_a_refused_body_of_known_length_leaves_the_connection_usable(scripted_gateway: Gateway) -> None:
    refused = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    with connect(scripted_gateway) as connection:
        for _ in range(2):
            connection.sendall(refused)
            received = read_until(connection, b'"missing_api_key"}}')
            assert received.startswith(b"HTTP/1.1 401 ") and b"\r\nConnection: keep-alive\r\n" in received
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1 200 OK" in read_to_end(connection)


REFUSED = {
    "chunks": chunked_head(None) + b"100000\r\n" + b"x" * 0x100000 + b"\r\n0\r\n\r\n",
    "a large body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n"
    + b"x" * 4_000_000,
}


@pytest.mark.parametrize("name", REFUSED)
def test_after_another_refused_body_the_response_arrives_and_the_connection_is_closed(
    scripted_gateway: Gateway, name: str
) -> None:
    with connect(scripted_gateway) as connection:
        # The whole body is sent before the response is read, as SDKs do.
        connection.sendall(REFUSED[name])
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 401 ") and b"\r\nConnection: close\r\n" in received
    assert received.count(b"HTTP/1.1 ") == 1


def test_trailers_have_a_limit(scripted_gateway: Gateway) -> None:
    with connect(scripted_gateway) as connection:
        connection.sendall(chunked_head(scripted_gateway.key) + b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 3_000)
        received = read_until(connection, b"invalid_body")
    assert received.startswith(b"HTTP/1.1 400 ")
