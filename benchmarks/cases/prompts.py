"""Streams beside prompts of a megabyte: how much their events are delayed."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.cases.chat import PATH, PROMPTS, make_prompt, run, stream_load, warm_up
from benchmarks.peers import Peer
from benchmarks.results import Results
from benchmarks.stage import SETTLE_S, Stage

_STREAMS = 200
_STEP_S = 1 / 20  # Twenty prompts a second.
_ALONE = f"{_STREAMS} streams, 20 events/s each, beside nothing"
_BESIDE = {f"{_STREAMS} streams, 20 events/s each, beside 20/s: {case}": text for case, text in PROMPTS.items()}


def measure_streams_beside(stage: Stage, results: Results) -> None:
    """Measures the lag of streams, alone and beside each prompt, at the gateway and at nginx.

    It includes the prompts' cost to the provider and this process, which share the other core; nginx' lag shows it.
    """
    load = stream_load(stage, _STREAMS, 20)
    for name in [*(peer for peer in stage.options.peers if peer == "nginx"), "gateway"]:
        peer = stage.get_peer(name)
        if peer is None:
            continue
        warm_up(stage, peer)
        results.add(_ALONE, name, run(stage, peer, load))
        for case, text in _BESIDE.items():
            with _prompts_sent(peer, make_prompt(text)) as sent:
                results.add(case, name, run(stage, peer, load))
            assert min(sent) == 200, f"{name} answered a prompt with {max(sent)}"
            time.sleep(SETTLE_S)


@contextmanager
def _prompts_sent(peer: Peer, body: bytes) -> Iterator[list[int]]:
    """Sends a body at a fixed rate during a `with` block; yields the statuses of the responses as a list."""
    sent: list[int] = []
    has_ended = threading.Event()

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=10)
        due_s = time.monotonic()
        while not has_ended.wait(max(0.0, due_s - time.monotonic())):
            connection.request("POST", PATH, body, {"Content-Type": "application/json", **peer.headers})
            response = connection.getresponse()
            response.read()
            sent.append(response.status)
            due_s += _STEP_S
        connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield sent
    finally:
        has_ended.set()
        thread.join()
