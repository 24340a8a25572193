"""Promises of deploy/nginx-hosts.conf: a dead host costs no request, and a POST that was sent is not sent again."""

from __future__ import annotations

import difflib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.conftest import MakeGateway
from tests.faults.nginx import CONFIGURATION, HOSTS_CONFIGURATION, NO_NGINX, Door, running_nginx_for_hosts
from tests.support.answers import chat_answer
from tests.support.chat import PREFIX, Seen, chat_body, request
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream, refused_address, unanswered_address
from tests.support.scripts import Gate, wait_for
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(bool(NO_NGINX), reason=NO_NGINX)


def post(door: Door, model: str) -> Seen:
    headers = {"Authorization": f"Bearer {door.key}"}
    return request("POST", f"{door.url}/v1/chat/completions", headers=headers, json=chat_body(PREFIX + model))


def address(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.port}"


def count(upstream: ScriptedUpstream, model: str) -> int:
    return sum(model in str(call.body) for call in upstream.calls)


def tries(place: Path) -> list[int]:
    """Returns the number of hosts that nginx asked for each request; its log has a time for each host."""
    lines = (place / "access.log").read_text().splitlines()
    return [line.partition("upstream_time=")[2].partition(" request_id=")[0].count(",") + 1 for line in lines]


def test_a_host_that_refuses_connections_costs_no_request(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.on_model("one-dead", chat_answer("hi"))
    with refused_address() as dead:
        hosts = (dead.split("/")[2], address(scripted_gateway))
        with running_nginx_for_hosts(hosts, tmp_path) as door, ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(lambda _: post(door, "one-dead"), range(40)))
    assert [each.status for each in seen] == [200] * 40
    assert count(upstream, "one-dead") == 40, "each was served once"
    assert 2 in tries(tmp_path), "some met the dead host first"


def test_a_host_without_power_costs_a_few_requests_the_time_to_connect(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.on_model("no-power", chat_answer("hi"))
    short = {"proxy_connect_timeout 2s;": "proxy_connect_timeout 200ms;"}
    with unanswered_address() as dead:
        hosts = (dead.split("/")[2], address(scripted_gateway))
        begun_s = time.monotonic()
        with running_nginx_for_hosts(hosts, tmp_path, short) as door:
            seen = [post(door, "no-power") for _ in range(30)]
        seconds = time.monotonic() - begun_s
    assert [each.status for each in seen] == [200] * 30
    delayed = sum(number > 1 for number in tries(tmp_path))
    assert 3 <= delayed <= 3 + seconds / 5, "the dead host is left alone after three requests"


@soak_only("faults/test_nginx_hosts.py::test_a_host_that_refuses_connections_costs_no_request")
def test_a_post_that_was_sent_to_a_host_that_dies_is_not_repeated(
    make_gateway: MakeGateway, scripted_gateway: Gateway, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    gate = Gate()
    upstream.on_model("held", [wait_for(gate), *chat_answer("hi")])
    upstream.on_model("after", chat_answer("hi"))
    mortal = make_gateway(upstream.settings)
    with running_nginx_for_hosts((address(mortal), address(scripted_gateway)), tmp_path) as door:
        with ThreadPoolExecutor() as pool:
            held = [pool.submit(post, door, "held") for _ in range(2)]  # One for each host.
            wait_until(lambda: count(upstream, "held") == 2, what="both requests at the provider")
            mortal.kill()
            broken = next(as_completed(held))
            gate.open()
            whole = next(future for future in held if future is not broken)
            assert (broken.result().status, broken.result().error["code"]) == (502, "gateway_unreachable")
            assert whole.result().status == 200
        after = [post(door, "after").status for _ in range(10)]
    assert after == [200] * 10
    assert (count(upstream, "held"), count(upstream, "after")) == (2, 10), "the provider was asked once for each"
    gate.close()


class Breaking:
    """A host that accepts connections and closes them after a request's head; once `answers` is set, it answers 204."""

    def __init__(self) -> None:
        self.answers = False
        self.requests = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(OSError):
                    connection.recv(65_536)
                    self.requests += 1
                    if self.answers:
                        connection.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def breaking_hosts() -> Iterator[tuple[Breaking, Breaking]]:
    hosts = (Breaking(), Breaking())
    try:
        yield hosts
    finally:
        for host in hosts:
            host.close()


def test_hosts_that_failed_all_at_once_are_asked_again_at_once(tmp_path: Path) -> None:
    with breaking_hosts() as (one, other), running_nginx_for_hosts((one.address, other.address), tmp_path) as door:
        broken = [post(door, "broken").status for _ in range(8)]
        assert broken == [502] * 8 and one.requests + other.requests == 8
        one.answers = other.answers = True
        assert post(door, "mended").status == 204


def test_it_differs_from_the_file_for_one_host_only_in_what_several_need() -> None:
    lines = difflib.ndiff(CONFIGURATION.read_text().splitlines(), HOSTS_CONFIGURATION.read_text().splitlines())
    changed = {line[2:].split()[0] for line in lines if line[0] in "+-" and line[2:].strip(" #")}
    assert changed - {"#"} == {
        "server",
        "zone",
        "keepalive",
        "keepalive_timeout",
        "keepalive_requests",
        "proxy_set_header",
        "proxy_socket_keepalive",
        "proxy_connect_timeout",
        "proxy_next_upstream",
        "proxy_next_upstream_timeout",
    }
