"""Streams leave nothing behind: no descriptor, greenlet or provider connection when aborted, no memory after many."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.support.answers import DONE, chunk, sse_stream, usage_chunk
from tests.support.chat import PREFIX, chat_body, open_chat, read_until, request
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import hang
from tests.support.soak import FULL, soak_count, soak_only
from tests.support.tree import copy_tree
from tests.support.waiting import wait_until

# The application with an additional route that counts live objects of the process.
OBSERVED_WSGI = """
import gc
import os

import greenlet

from app import create_app

app = create_app()


@app.get("/observe")
def observe():
    gc.collect()
    lives = sum(isinstance(one, greenlet.greenlet) and not one.dead for one in gc.get_objects())
    pages = int(open("/proc/self/statm").read().split()[1])
    return {"greenlets": lives, "descriptors": len(os.listdir("/proc/self/fd")), "rss_kb": pages * 4}
"""

CLIENTS = 25
# Allowance for legitimate growth in a run of this length: the allocator's pools, series of metrics, a longer journal.
MOST_GROWTH_KB = 10_000


@pytest.fixture(scope="module")
def observed(
    session_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Gateway, ScriptedUpstream]]:
    """A gateway of one worker with the route `/observe`, and its upstream."""
    place = tmp_path_factory.mktemp("observed")
    tree = copy_tree(place / "tree")
    (tree / "wsgi.py").write_text(OBSERVED_WSGI)
    with ScriptedUpstream() as upstream:
        upstream.on_model("silent", sse_stream([chunk("one"), hang()]))
        upstream.on_model("mute", [hang()])
        events = [chunk(f"word {number}") for number in range(20)]
        upstream.on_model("whole", sse_stream([*events, chunk(finish="stop"), usage_chunk(), DONE], cut_at=400))
        settings = base_settings(place, session_database_url) | upstream.settings
        with running_gateway(tree, place, settings) as gateway:
            yield gateway, upstream


def observe(gateway: Gateway) -> dict[str, int]:
    """Returns the current counts."""
    counts: dict[str, int] = request("GET", f"{gateway.url}/observe").json
    return counts


def in_parallel(work: Callable[[int], None], count: int) -> None:
    """Calls `work(number)` for each number below `count`, CLIENTS at a time; raises what any of them raised."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        for _ in pool.map(work, range(count)):
            pass


def abort(gateway: Gateway, number: int) -> None:
    """Disconnects from a stream: before its head, after its first event, or with a reset."""
    if number % 3 == 0:
        with open_chat(gateway, f"{PREFIX}mute"):
            return
    with open_chat(gateway, f"{PREFIX}silent") as connection:
        read_until(connection, b'"one"')
        if number % 3 == 1:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


@soak_only("routes/test_chat_client_leaves.py::test_the_provider_is_told_at_once")
@pytest.mark.soak
def test_aborted_streams_leave_nothing_behind(observed: tuple[Gateway, ScriptedUpstream]) -> None:
    gateway, upstream = observed
    in_parallel(lambda number: abort(gateway, number), 60)  # Creates the objects that are made only once.
    # The connection that fetched the catalog may be kept.
    wait_until(lambda: upstream.live_connections() <= 1, 30, "the first streams to end")
    before = observe(gateway)

    in_parallel(lambda number: abort(gateway, number), soak_count(2_000))

    wait_until(lambda: upstream.live_connections() <= 1, 30, "the provider's connections to end")
    # The catalog's connection, or the shipper's, may open or close meanwhile.
    for kind, slack in (("descriptors", 2), ("greenlets", 2)):
        wait_until(lambda kind=kind, slack=slack: observe(gateway)[kind] <= before[kind] + slack, 30, kind)


@soak_only("routes/test_chat_client_leaves.py::test_the_provider_is_told_at_once")
@pytest.mark.soak
def test_memory_stays_flat_over_many_streams(observed: tuple[Gateway, ScriptedUpstream]) -> None:
    gateway, _ = observed
    with closing(Streams(gateway)) as streams:
        streams.run(5_000 if FULL else 300)  # First fills the allocator's pools and the caches.
        before = observe(gateway)
        streams.run(20_000 if FULL else 1_000)  # The short run detects a leak of 10 KB per stream.

    grown_kb = observe(gateway)["rss_kb"] - before["rss_kb"]
    assert grown_kb < MOST_GROWTH_KB, f"resident memory grew by {grown_kb} KB"


class Streams:
    """Reads whole streams over CLIENTS kept connections."""

    def __init__(self, gateway: Gateway) -> None:
        self._headers = {**gateway.headers, "Content-Type": "application/json"}
        self._body = json.dumps(chat_body(f"{PREFIX}whole", stream=True))
        self._idle = [http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60) for _ in range(CLIENTS)]

    def run(self, count: int) -> None:
        """Reads `count` streams."""
        in_parallel(self._read, count)

    def close(self) -> None:
        """Closes the connections."""
        for connection in self._idle:
            connection.close()

    def _read(self, _: int) -> None:
        connection = self._idle.pop()
        connection.request("POST", "/v1/chat/completions", self._body, self._headers)
        assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
        self._idle.append(connection)
