"""Promises of deploy/nginx.conf besides the table of faults: its own responses, TLS, streams, pooled connections."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from app.services.endpoints import ENDPOINTS, Endpoint
from tests.faults.clients import NO_CURL
from tests.faults.leaving import Caller
from tests.faults.nginx import NO_NGINX, Door, running_nginx
from tests.support.answers import DONE, chat_answer, chunk, json_answer, sse_stream
from tests.support.chat import HELLO, PREFIX, Seen, chat_body, read_until, request
from tests.support.gateway import Gateway, free_port
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, pause, wait_for

pytestmark = pytest.mark.skipif(bool(NO_NGINX), reason=NO_NGINX)


@pytest.fixture(scope="module")
def door(scripted_gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """nginx with the times and limits of the file."""
    with running_nginx(scripted_gateway, tmp_path_factory.mktemp("nginx")) as door:
        yield door


def post(door: Door, **more: object) -> Seen:
    headers = {"Authorization": f"Bearer {door.key}"}
    return request("POST", f"{door.url}/v1/chat/completions", headers=headers, **more)


def send(door: Door, content: bytes) -> Seen:
    """Sends bytes and reads one response, up to the end of the connection."""
    data = b""
    with (
        socket.create_connection(("127.0.0.1", door.port), timeout=20) as connection,
        suppress(ConnectionResetError),  # How nginx ends a connection whose body never arrived.
    ):
        connection.sendall(content)
        while piece := connection.recv(65_536):
            data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            if length and len(body) >= int(length[1]):
                connection.shutdown(socket.SHUT_WR)  # Otherwise nginx would wait for the body that it has refused.
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    return Seen(int(line.split()[1]), headers, body)


def check(seen: Seen, status: int, kind: str, code: str | None) -> None:
    """Fails unless the answer is an error in the common shape."""
    assert seen.status == status
    assert seen.headers["content-type"] == "application/json" and seen.request_id
    assert seen.error.keys() == {"message", "type", "param", "code"}
    assert (seen.error["type"], seen.error["code"]) == (kind, code)


def test_a_body_over_the_limit_is_refused_before_it_is_read(door: Door) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 20971521\r\n\r\n"
    check(send(door, head.encode()), 413, "invalid_request_error", "body_too_large")


def test_a_refusal_of_nginx_has_the_shape_of_the_api(door: Door) -> None:
    head = "POST /v1/messages?beta=true HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 20971521\r\n\r\n"
    seen = send(door, head.encode())
    assert (seen.status, seen.json["type"], seen.error["type"]) == (413, "error", "request_too_large")
    assert seen.json["request_id"] == seen.headers["request-id"] == seen.request_id


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: magic\r\nConnection: close\r\n\r\n", 501),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 405),
    ],
)
def test_what_nginx_refuses_is_told_in_the_one_shape(door: Door, content: bytes, status: int) -> None:
    seen = send(door, content)
    assert seen.status == status
    assert seen.error.keys() == {"message", "type", "param", "code"} and seen.request_id


def test_a_gateway_that_is_away_is_a_502_that_says_when_to_retry(scripted_gateway: Gateway, tmp_path: Path) -> None:
    closed = {f"server 127.0.0.1:{scripted_gateway.port} ": f"server 127.0.0.1:{free_port()} "}
    with running_nginx(scripted_gateway, tmp_path, closed) as door:
        seen = post(door, json=chat_body(PREFIX + "away"))
    check(seen, 502, "unavailable_error", "gateway_unreachable")
    assert seen.headers["retry-after"] == "1"


def test_a_gateway_that_is_silent_is_a_504(scripted_gateway: Gateway, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        changes = {
            f"server 127.0.0.1:{scripted_gateway.port} ": f"server 127.0.0.1:{silent.getsockname()[1]} ",
            "proxy_read_timeout 910s;": "proxy_read_timeout 1s;",
        }
        with running_nginx(scripted_gateway, tmp_path, changes) as door:
            check(post(door, json=chat_body(PREFIX + "silent")), 504, "unavailable_error", "gateway_timeout")


def test_the_gateways_own_errors_and_headers_pass_unchanged(door: Door, upstream: ScriptedUpstream) -> None:
    refused = request("GET", f"{door.url}/v1/models")
    assert (refused.status, refused.error["code"]) == (401, "missing_api_key")
    upstream.on_model("timed", chat_answer("hi"))
    seen = post(door, json=chat_body(PREFIX + "timed"))
    assert "upstream;dur=" in seen.headers["server-timing"] and len(seen.request_id) == 36


def test_a_path_goes_on_as_it_came(door: Door, scripted_gateway: Gateway) -> None:
    path = "/api/catalog/model/a%2Fb%2F%2Fc%20d?gateway=fireworks"
    behind, directly = (request("GET", url + path) for url in (door.url, scripted_gateway.url))
    assert behind.status == directly.status == 404
    assert behind.json == directly.json and "a/b//c d" in behind.error["message"]


def test_events_pass_one_by_one(door: Door, upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.on_model("gated", sse_stream([chunk("one"), wait_for(gate), chunk(finish="stop"), DONE]))
    caller = Caller(door, upstream, PREFIX + "gated")
    with caller.connection as connection:
        caller.ask()
        read_until(connection, b'"one"')
        gate.open()
        read_until(connection, b"[DONE]")
    gate.close()


def test_every_path_at_which_a_model_is_called_has_the_limits_of_chat(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    # On other paths, nginx ends a response that takes this long with an error of its own.
    hasty = {"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}
    upstream.default = [pause(1.5), *json_answer({"choices": [], "data": [], "results": []})]
    texts = dict.fromkeys(("prompt", "input", "query"), "a")
    body = {"model": PREFIX + "slow", "messages": HELLO, "documents": ["a"], "max_tokens": 9} | texts
    with running_nginx(scripted_gateway, tmp_path, hasty) as door, ThreadPoolExecutor() as pool:

        def ask(endpoint: Endpoint) -> Seen:
            headers, known = {"Authorization": f"Bearer {door.key}"}, endpoint.body.__struct_fields__
            own = {name: value for name, value in body.items() if name in known}
            return request("POST", door.url + endpoint.path, headers=headers, json=own)

        seen = dict(zip(ENDPOINTS, pool.map(ask, ENDPOINTS), strict=True))
    assert [endpoint.path for endpoint, each in seen.items() if each.status not in {200, 502}] == []


def test_a_slow_head_is_not_waited_for(scripted_gateway: Gateway, tmp_path: Path) -> None:
    changes = {"client_header_timeout 10s;": "client_header_timeout 1s;"}
    with (
        running_nginx(scripted_gateway, tmp_path, changes) as door,
        socket.create_connection(("127.0.0.1", door.port), timeout=10) as connection,
    ):
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost:")
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""


def test_tls_takes_the_lines_that_are_ready_for_it(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    if NO_CURL or shutil.which("openssl") is None:
        pytest.skip(NO_CURL or "openssl is not on PATH, so there is no certificate to serve TLS with")
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=localhost", "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*make, *names], check=True, capture_output=True)
    port = free_port()
    changes = {
        "# listen 443 ssl http2 default_server;": f"listen 127.0.0.1:{port} ssl http2;",
        "# ssl_": "ssl_",
        "/etc/ssl/gateway/fullchain.pem": str(tmp_path / "cert.pem"),
        "/etc/ssl/gateway/privkey.pem": str(tmp_path / "key.pem"),
    }
    upstream.on_model("tls", sse_stream([chunk("one"), chunk(finish="stop"), DONE]))
    upstream.on_model("tls-cut", sse_stream([chunk("one")], ending="fin"))
    with running_nginx(scripted_gateway, tmp_path / "nginx", changes) as door:
        whole, cut = (_curl_tls(port, door.key, model) for model in ("tls", "tls-cut"))
        plain = subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, check=True).stdout
    assert whole.returncode == 0 and whole.stdout.endswith(b"[DONE]\n\n")
    assert cut.returncode != 0 and b"upstream_cut" in cut.stdout
    assert json.loads(plain)["error"]["type"] == "invalid_request_error"


def _curl_tls(port: int, key: str, model: str) -> subprocess.CompletedProcess[bytes]:
    command = ["curl", "-skN", "--max-time", "20", "-H", f"Authorization: Bearer {key}"]
    command += ["-H", "Content-Type: application/json", "-d", json.dumps(chat_body(PREFIX + model, stream=True))]
    url = f"https://127.0.0.1:{port}/v1/chat/completions"
    return subprocess.run([*command, url], capture_output=True, check=False)
