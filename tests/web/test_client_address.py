"""A client's address and the rights that follow from it: only configured proxies are believed."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.config import load_settings
from app.runtime import use_settings
from app.web import get_client_address, is_for_operator
from tests.conftest import MakeGateway
from tests.support.application import use_application
from tests.support.chat import read_until, request
from tests.support.gateway import Gateway
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

PROXIES = "10.0.0.0/8, 127.0.0.1, fd00::/8"

ADDRESSES: list[tuple[str, str | None, str]] = [
    # The peer, X-Forwarded-For, and the resulting client.
    ("192.0.2.1", None, "192.0.2.1"),
    ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
    ("10.0.0.1", None, "10.0.0.1"),
    ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
    ("10.0.0.1", "127.0.0.1, 198.51.100.7", "198.51.100.7"),
    ("10.0.0.1", "203.0.113.9,198.51.100.7 , 10.1.1.1", "198.51.100.7"),
    ("10.0.0.1", "10.2.2.2, 10.1.1.1", "10.2.2.2"),
    ("10.0.0.1", "198.51.100.7, unknown", "10.0.0.1"),
    ("10.0.0.1", "198.51.100.7, ", "10.0.0.1"),
    ("10.0.0.1", "198.51.100.7, nonsense, 10.1.1.1", "10.1.1.1"),
    ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
    ("10.0.0.1", "[2001:db8::7]:4711", "2001:db8::7"),
    ("10.0.0.1", "2001:DB8::7", "2001:db8::7"),
    ("::ffff:10.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
    ("fd00::1", "198.51.100.7", "198.51.100.7"),
    ("::ffff:192.0.2.1", "198.51.100.7", "192.0.2.1"),
    ("10.0.0.1", "198.51.100.7," + "10.0.0.2," * 600 + "10.0.0.3", "10.0.0.2"),
    ("", "198.51.100.7", ""),
]


@pytest.mark.parametrize(("peer", "forwarded", "client"), ADDRESSES)
def test_the_client_is_the_last_address_that_no_trusted_proxy_has(
    tmp_path: Path, peer: str, forwarded: str | None, client: str
) -> None:
    app = use_application(load_settings({"TRUSTED_PROXIES": PROXIES, "JOURNAL_DIR": str(tmp_path)}))
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    with app.test_request_context("/", headers=headers, environ_overrides={"REMOTE_ADDR": peer}):
        assert get_client_address() == client
    use_settings(None)


@pytest.mark.parametrize(
    ("peer", "headers", "may"),
    [
        ("127.0.0.1", {}, True),
        ("127.8.8.8", {}, True),
        ("::1", {}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("10.0.0.1", {}, False),
        ("192.0.2.1", {}, False),
        ("", {}, False),
        ("192.0.2.1", {"X-Forwarded-For": "127.0.0.1"}, False),
        ("10.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, False),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, False),
        ("127.0.0.1", {"Forwarded": "for=192.0.2.1"}, False),
        ("127.0.0.1", {"X-Real-IP": ""}, False),
        ("127.0.0.1", {"Via": "1.1 proxy"}, False),
        ("127.0.0.1", {"CF-Connecting-IP": "x"}, False),
        ("127.0.0.1", {"True-Client-IP": "x"}, False),
        ("127.0.0.1", {"X-Client-IP": "x"}, False),
        ("127.0.0.1", {"Fly-Client-IP": "x"}, False),
        ("127.0.0.1", {"X-Envoy-External-Address": "x"}, False),
        ("127.0.0.1", {"CDN-Loop": "x"}, False),
        ("127.0.0.1", {"X-Forwarded-Server": "x"}, False),
        ("127.0.0.1", {"X-Forwarded-Port": "x"}, False),
        ("192.0.2.1", {"Authorization": "Bearer metrics_test_token"}, True),
        ("192.0.2.1", {"Authorization": "bearer gw_test_operator_key"}, True),
        ("192.0.2.1", {"X-Api-Key": "gw_test_operator_key"}, True),
        ("192.0.2.1", {"X-Api-Key": "another"}, False),
        ("192.0.2.1", {"Authorization": "Bearer another", "X-Api-Key": "gw_test_operator_key"}, False),
        ("192.0.2.1", {"Authorization": "Bearer "}, False),
        ("192.0.2.1", {"Authorization": "Basic metrics_test_token"}, False),
        ("192.0.2.1", {"Authorization": "Bearer metrics_test_tokeN"}, False),
        ("192.0.2.1", {"Authorization": "Bearer m\xe9trics_test_token"}, False),
    ],
)
def test_internals_are_for_local_programs_and_the_operator(
    tmp_path: Path, peer: str, headers: Mapping[str, str], may: bool
) -> None:
    settings = {
        "METRICS_TOKEN": "metrics_test_token",
        "GATEWAY_API_KEY": "gw_test_operator_key",
        "TRUSTED_PROXIES": PROXIES,
    }
    app = use_application(load_settings(settings | {"JOURNAL_DIR": str(tmp_path)}))
    with app.test_request_context("/", headers=headers, environ_overrides={"REMOTE_ADDR": peer}):
        assert is_for_operator() is may
    use_settings(None)


def test_without_a_token_or_key_nobody_elsewhere_sees_them(tmp_path: Path) -> None:
    app = use_application(load_settings({"JOURNAL_DIR": str(tmp_path)}))
    for authorization in ("Bearer ", "Bearer None", ""):
        headers = {"Authorization": authorization, "X-Forwarded-For": "192.0.2.1"}
        with app.test_request_context("/", headers=headers, environ_overrides={"REMOTE_ADDR": "127.0.0.1"}):
            assert not is_for_operator()
    use_settings(None)


def test_metrics_and_the_details_of_ready_are_not_shown_through_a_proxy(scripted_gateway: Gateway) -> None:
    proxied = {"X-Forwarded-For": "192.0.2.1"}
    metrics, ready = scripted_gateway.url + "/metrics", scripted_gateway.url + "/ready"
    assert request("GET", metrics).status == 200
    refused = request("GET", metrics, headers=proxied)
    assert (refused.status, refused.error["type"]) == (401, "authentication_error")
    assert b"gateway_" not in refused.body.replace(b"gateway_api", b"")
    assert request("GET", metrics, headers=proxied | scripted_gateway.headers).status == 200

    shown = request("GET", ready, headers=proxied)
    assert (shown.status, shown.json) == (200, {"ready": True})
    assert "database" in request("GET", ready, headers=proxied | scripted_gateway.headers).json


def test_the_log_line_of_a_refused_key_has_the_peers_address(scripted_gateway: Gateway) -> None:
    # No proxy is configured, so the header is not believed.
    headers = {"X-Forwarded-For": "192.0.2.1"}
    seen = request("GET", scripted_gateway.url + "/v1/models", headers=headers)
    assert (seen.status, log_line(scripted_gateway, seen.request_id)["client"]) == (401, "127.0.0.1")
    known = request("GET", scripted_gateway.url + "/v1/models", headers=scripted_gateway.headers)
    assert "client" not in log_line(scripted_gateway, known.request_id)


def log_line(gateway: Gateway, request_id: str) -> dict[str, object]:
    """Waits for the log line of a request."""

    def found() -> str | None:
        lines = [line for line in gateway.log().splitlines() if request_id in line and line.endswith("}")]
        return lines[0] if lines else None

    line: dict[str, object] = json.loads(wait_until(found, what=f"the log line of {request_id}"))
    return line


@soak_only("web/test_client_address.py::test_headers_of_proxies_mean_nothing_from_others")
def test_a_gateway_for_all_addresses_of_ipv6_with_a_trusted_proxy(make_gateway: MakeGateway) -> None:
    gateway = make_gateway({"HOST": "::", "TRUSTED_PROXIES": "127.0.0.1, ::1"})
    proxied = {"X-Forwarded-For": "198.51.100.7, 192.0.2.1"}
    for url in (gateway.url, f"http://[::1]:{gateway.port}"):
        assert request("GET", f"{url}/metrics").status == 200
        seen = request("GET", f"{url}/v1/models", headers=proxied)
        assert (seen.status, log_line(gateway, seen.request_id)["client"]) == (401, "192.0.2.1")
        assert request("GET", f"{url}/metrics", headers=proxied).status == 401
        assert request("GET", f"{url}/health", headers=proxied | {"SCRIPT_NAME": "/nowhere"}).status == 200


@pytest.mark.parametrize(
    "header", ["SCRIPT_NAME: /nowhere", "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off", "PATH_INFO: /metrics"]
)
def test_headers_of_proxies_mean_nothing_from_others(scripted_gateway: Gateway, header: str) -> None:
    # This test runs on the gateway's machine, which gunicorn would trust by default.
    with socket.create_connection(("127.0.0.1", scripted_gateway.port), timeout=20) as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{header}\r\n\r\n".encode())
        received = read_until(connection, b"\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere", "/bad path"])
def test_no_response_has_a_version_or_may_be_sniffed(scripted_gateway: Gateway, path: str) -> None:
    with socket.create_connection(("127.0.0.1", scripted_gateway.port), timeout=20) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        head = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
    assert b"x-content-type-options: nosniff" in head
    assert not any(line.startswith(b"server:") and b"/" in line for line in head)
