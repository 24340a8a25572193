"""A wait for a provider ends when its client leaves, its time is up or the gateway stops, and not a moment later."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from app.runtime import get_component
from app.services.inference.cancellation import Watcher
from app.services.streaming import ClientConnection
from tests.support.scripted_upstream import ScriptedUpstream, unanswered_address
from tests.support.scripts import hang
from tests.support.soak import soak_only
from tests.support.tree import ROOT
from tests.support.waiting import wait_until


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


def run_cases(base_url: str, *cases: str, told: int = subprocess.DEVNULL) -> list[str]:
    """Returns the line of each case; `told` is the pipe on which the provider signals that it has a request."""
    command = [sys.executable, "-m", "tests.services.inference.gevent_waits", base_url, *cases]
    done = subprocess.run(command, cwd=ROOT, stdin=told, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_wait_in_a_worker_ends_early_and_with_it_the_request(upstream: ScriptedUpstream) -> None:
    told, tell = os.pipe()
    upstream.default = [lambda exchange: os.write(tell, b"."), hang()]
    expected = {
        "client leaves": "ClientGone None",
        "deadline": "UpstreamTimeout upstream_total_timeout",
        "drain ends": "GatewayShutdown gateway_shutdown",
    }
    with open(told, "rb"), open(tell, "wb"):
        assert run_cases(upstream.base_url, *expected, told=told) == list(expected.values())
    wait_until(lambda: [seen.gone_at is not None for seen in upstream.requests] == [True] * 3, what="all to be let go")


@soak_only("services/inference/test_cancellation.py::test_a_wait_in_a_worker_ends_early_and_with_it_the_request")
def test_a_wait_for_a_connection_ends_early_and_closes_its_socket() -> None:
    with unanswered_address() as base_url:
        assert run_cases(base_url, "client leaves while connecting") == ["ClientGone None"]


@soak_only("services/inference/test_cancellation.py::test_a_wait_in_a_worker_ends_early_and_with_it_the_request")
def test_a_wait_that_is_over_is_left_alone(upstream: ScriptedUpstream) -> None:
    assert run_cases(upstream.base_url, "client leaves afterwards") == ["answered 0"]


def test_where_sockets_are_not_gevents_nothing_is_watched() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with get_component(Watcher).watch(ClientConnection(ours), time.monotonic() - 1, "Fireworks"):
            assert get_component(Watcher).waits == set()
