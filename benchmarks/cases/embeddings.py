"""Embeddings of a hundred texts: the CPU time beside that of relaying the same bytes, and streams meanwhile."""

from __future__ import annotations

import json

from benchmarks.cases.chat import PATH, PLAIN, run, stream_load
from benchmarks.native import Load
from benchmarks.results import Results
from benchmarks.stage import Stage

_PATH = "/v1/embeddings"
_RELAY = "relay, unparsed"
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
    """Measures each form at the gateway and at the relay, then the lag of streams beside conversions and without."""
    seconds = 2.0 if stage.options.quick else 4.0
    for form in _FORMS:
        for name in (_RELAY, "gateway"):
            peer = stage.get_peer(name)
            if peer is not None:
                stage.run_load(Load(peer.port, _PATH, peer.headers, _make_load(form, 0.3).body, seconds=0.3)).result()
                results.add(f"embeddings, {form}", name, run(stage, peer, _make_load(form, seconds)))
    gateway = stage.get_peer("gateway")
    assert gateway is not None
    load = stream_load(stage, _STREAMS, 20)
    for case in (_ALONE, _BESIDE_CHAT, _BESIDE_EMBEDDINGS):
        form = _make_load("numbers to base64", load.ramp_s + load.warmup_s + load.seconds + 1.0)
        beside = {
            _BESIDE_EMBEDDINGS: Load(**vars(form) | {"connections": 1}),
            _BESIDE_CHAT: Load(0, PATH, {}, PLAIN, 1, seconds=form.seconds),
        }.get(case)
        other = None
        if beside is not None:
            other = stage.run_load(Load(**vars(beside) | {"port": gateway.port, "headers": gateway.headers}))
        results.add(case, "gateway", run(stage, gateway, load))
        if other is not None:
            other.result()
