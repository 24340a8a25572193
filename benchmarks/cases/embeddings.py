"""Embeddings of a hundred texts: CPU time compared with relaying the same bytes, and how long they delay streams."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import replace

from benchmarks.cases.chat import PATH, PLAIN, run, stream_load
from benchmarks.native import Load
from benchmarks.peers import Peer
from benchmarks.results import Results
from benchmarks.stage import SETTLE_S, Stage

_PATH = "/v1/embeddings"
_RELAY = "relay, unparsed"
_CLOCK = "gateway, with a clock"
_MODEL = "accounts/fireworks/models/bench"
_STREAMS = 200
_ALONE = f"{_STREAMS} streams, 20 events/s each, alone"
_BESIDE_CHAT = f"{_STREAMS} streams, 20 events/s each, beside chat"
_BESIDE_EMBEDDINGS = f"{_STREAMS} streams, 20 events/s each, beside embeddings"

# The form that the client asks for, and the one that the provider sends.
_FORMS = {
    "numbers": (_MODEL, "float"),
    "base64": (_MODEL, "base64"),
    "numbers to base64": (_MODEL + "-numbers-only", "base64"),
}


def _make_load(form: str, seconds: float) -> Load:
    model, encoding = _FORMS[form]
    texts = [f"Text {number} of a hundred, as long as a sentence is on average." for number in range(100)]
    body = json.dumps({"model": model, "input": texts, "encoding_format": encoding}).encode()
    return Load(0, _PATH, {}, body, connections=2, seconds=seconds)


def measure_embeddings(stage: Stage, results: Results) -> None:
    """Measures each form at the gateway and at the relay, and then how long it keeps events waiting."""
    seconds = 2.0 if stage.options.quick else 2.0
    for form in _FORMS:
        for name in (_RELAY, "gateway", _CLOCK):
            peer = stage.get_peer(name)
            if peer is None:
                continue
            stage.run_load(Load(peer.port, _PATH, peer.headers, _make_load(form, 0.3).body, seconds=0.3)).result()
            time.sleep(SETTLE_S)
            if name == _CLOCK:
                results.add(f"embeddings, {form}, one at a time", name, _measure_delays(stage, peer, form, seconds))
            else:
                results.add(f"embeddings, {form}", name, run(stage, peer, _make_load(form, seconds)))
    _measure_streams(stage, results)


def _measure_delays(stage: Stage, peer: Peer, form: str, seconds: float) -> dict[str, float]:
    """Returns the results of one connection, and the longest delays of the event loop meanwhile."""
    _fetch_delays(peer)
    measured = run(stage, peer, replace(_make_load(form, seconds), connections=1))
    return measured | _fetch_delays(peer)


def _fetch_delays(peer: Peer) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=10)
    try:
        connection.request("GET", "/bench/turns")
        found: dict[str, float] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def _measure_streams(stage: Stage, results: Results) -> None:
    """Measures the lag of streams beside conversions, beside chat and alone.

    The lag includes the cost of the responses to the load generator and the provider, which share the other core.
    """
    gateway = stage.get_peer("gateway")
    assert gateway is not None
    load = stream_load(stage, _STREAMS, 20)
    for case in (_ALONE, _BESIDE_CHAT, _BESIDE_EMBEDDINGS):
        form = _make_load("numbers to base64", load.ramp_s + load.warmup_s + load.seconds + 1.0)
        beside = {
            _BESIDE_EMBEDDINGS: replace(form, connections=1),
            _BESIDE_CHAT: Load(0, PATH, {}, PLAIN, 1, seconds=form.seconds),
        }.get(case)
        other = None
        if beside is not None:
            other = stage.run_load(replace(beside, port=gateway.port, headers=gateway.headers))
        results.add(case, "gateway", run(stage, gateway, load))
        if other is not None:
            other.result()
