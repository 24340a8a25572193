"""Chat requests, streamed and not, and translated ones: throughput, latency, and how evenly events arrive."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from app.speedups import find_speedups
from benchmarks.machine import busy_s
from benchmarks.native import Load
from benchmarks.peers import MODEL, Peer
from benchmarks.results import BARE, COMPILED, ELSEWHERE, GATEWAY, OTHER, Results
from benchmarks.stage import SETTLE_S, Stage

PATH = "/v1/chat/completions"
# A response of 200 tokens: ten seconds at 20 events a second, four at 50.
EVENTS = 200
_MEGABYTE = 1_000_000


# These are idle as soon as their last response has ended, so the next subject need not wait long.
_SETTLED_AT_ONCE = {"direct", BARE, BARE + ELSEWHERE, "nginx", "Envoy"}
_PAUSE_S = 0.2


def subjects(stage: Stage, *, with_bare: bool = False, with_python: bool = True) -> list[str]:
    """Returns the subjects, optionally with the bare route and, if --python is given, those on another Python."""
    elsewhere = ELSEWHERE if with_python and stage.options.python else ""
    bare = [BARE, BARE + elsewhere] if with_bare else []
    other = [OTHER] if stage.options.against else []
    return list(dict.fromkeys(["direct", *bare, *stage.options.peers, *other, GATEWAY + elsewhere, GATEWAY]))


def make_body(prompt: str, *, stream: bool = False) -> bytes:
    """Returns the body of a chat request."""
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    return json.dumps(body | {"stream": True} if stream else body).encode()


PLAIN = make_body("What is a gateway?")

# Headers added by OpenAI's SDK for Python and by nginx in front of the gateway. With Host, Authorization, Content-Type
# and Content-Length, which every request has, these are 19 fields.
SDK_HEAD = {
    "X-Real-IP": "203.0.113.7",
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "Accept-Encoding": "gzip, deflate",
    "Accept": "application/json",
    "User-Agent": "OpenAI/Python 3.54.0",
    "X-Stainless-Lang": "python",
    "X-Stainless-Package-Version": "3.54.0",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "CPython",
    "X-Stainless-Runtime-Version": "3.11.7",
    "X-Stainless-Async": "false",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
}


def measure(stage: Stage, results: Results, case: str, names: Sequence[str], load: Load) -> None:
    """Measures the subjects in turn under the same load."""
    for name in stage.in_turn(names):
        peer = stage.get_peer(name)
        if peer is None or (load.events and f"streams of {name}" in stage.skipped):
            continue
        warm_up(stage, peer)
        measured = run(stage, peer, load)
        if load.events and not measured["events_per_s"]:
            stage.skipped[f"streams of {name}"] = f"they fail: {measured['first_error']}"
        else:
            results.add(case, name, measured)
        time.sleep(_PAUSE_S if name in _SETTLED_AT_ONCE else SETTLE_S)


def warm_up(stage: Stage, peer: Peer) -> None:
    """Sends some requests to a subject, so that keys are cached, connections are open and code is loaded."""
    stage.run_load(Load(peer.port, PATH, peer.headers, PLAIN, warmup_s=0.0, seconds=0.2)).result()


def run(stage: Stage, peer: Peer, load: Load) -> dict[str, Any]:
    """Returns the load generator's results, and the CPU time and memory of the subject meanwhile."""
    load = Load(**vars(load) | {"port": peer.port, "headers": {**peer.headers, **load.headers}})
    callers = stage.run_load(load)
    time.sleep(load.ramp_s + load.warmup_s)
    before, busy_before_s = peer.get_resource_usage(), busy_s(stage.cores.subject)
    time.sleep(load.seconds * 0.9)
    after, busy_after_s = peer.get_resource_usage(), busy_s(stage.cores.subject)
    measured = callers.result()
    cpu_s = (after.cpu_s - before.cpu_s) / 0.9
    others_s = (busy_after_s - busy_before_s) / 0.9 - cpu_s
    done = (measured.get("events_per_s") or measured["answers_per_s"]) * load.seconds
    return measured | {
        "cpu_us": cpu_s / done * 1e6 if done else None,
        "memory_mb": after.memory_bytes / 1e6,
        "others_percent": max(others_s / load.seconds * 100, 0.0),
    }


def _seconds(stage: Stage, normal: float) -> float:
    return normal / 2 if stage.options.quick else normal


def measure_requests(stage: Stage, results: Results) -> None:
    """Measures unstreamed requests, with 1 and with 32 connections, and with the heads that SDKs send."""
    names = subjects(stage, with_bare=True)
    for connections in (1, 32):
        load = Load(0, PATH, {}, PLAIN, connections, seconds=_seconds(stage, 2.5))
        measure(stage, results, f"requests, {connections} connections", names, load)
    load = Load(0, PATH, SDK_HEAD, PLAIN, 32, seconds=_seconds(stage, 2.5))
    # Only subjects whose cost depends on the number of fields, because Python reads them one by one.
    names = [name for name in names if name != "direct" and name not in stage.options.peers]
    measure(stage, results, "requests of an SDK behind nginx, 32 connections", names, load)


# A prompt of text, and one of code, which has many brackets, and quotes and line ends that JSON escapes.
PROMPTS = {
    "1 MB prompt": "All work and no play. ",
    "1 MB prompt of code": 'def get(name: str) -> dict[str, str]:\n    return {"name": name, "ok": "yes"}\n',
}


def make_prompt(text: str) -> bytes:
    """Returns the body of a chat request that repeats `text` for a megabyte."""
    return make_body(text * (_MEGABYTE // len(text)))


def measure_large_prompts(stage: Stage, results: Results) -> None:
    """Measures requests with a prompt of a megabyte, with four connections."""
    for case, text in PROMPTS.items():
        load = Load(0, PATH, {}, make_prompt(text), 4, seconds=_seconds(stage, 4.0))
        measure(stage, results, case, subjects(stage), load)


def stream_load(stage: Stage, streams: int, per_second: int, events: int = EVENTS) -> Load:
    """Returns a load of this many open streams with this many events a second each."""
    prompt = f"Tell a story. events={events:06d} interval_us={1_000_000 // per_second:06d}"
    return Load(
        0,
        PATH,
        {},
        make_body(prompt, stream=True),
        streams,
        events=events,
        ramp_s=streams / 500,
        warmup_s=2.0,
        seconds=_seconds(stage, 3.0),
    )


def measure_streams(stage: Stage, results: Results) -> None:
    """Measures concurrent streams, each case only with subjects that it is informative for, or a run would take hours.

    The compiled path for events is also measured, if it is built.

    LiteLLM cannot hold more than 100. Envoy with so few, and the provider alone with 20 events/s, are almost idle.
    """
    for streams in (100, 1_000, 2_000):
        for per_second in (20, 50):
            names = subjects(stage, with_python=(streams, per_second) == (1_000, 20))
            left_out = {"LiteLLM"} if streams > 100 else {"Envoy"}
            left_out |= {"LiteLLM", "direct"} if per_second == 20 else set()
            names = [name for name in names if name not in left_out]
            if streams > 100 and find_speedups().speedups is not None:
                names.append(COMPILED)
            case = f"{streams} streams, {per_second} events/s each"
            measure(stage, results, case, names, stream_load(stage, streams, per_second))


def measure_short_streams(stage: Stage, results: Results) -> None:
    """Measures streams of 50 events that last a second; a thousand start and end per second if the gateway keeps up."""
    case = "1000 streams, 50 events/s each, 50 events long"
    names = [name for name in subjects(stage, with_python=False) if name not in {"LiteLLM", "Envoy"}]
    measure(stage, results, case, names, stream_load(stage, 1_000, 50, events=50))


def measure_translated(stage: Stage, results: Results) -> None:
    """Measures streams of the endpoints that are translated to chat, beside those of chat itself.

    500 streams, because 1,000 saturate a slow machine's core, which then limits the CPU time that events can take.
    """
    peer, load = stage.get_peer(GATEWAY), stream_load(stage, 500, 20)
    if peer is None or load.body is None:
        return
    chat = json.loads(load.body)
    said = chat["messages"][-1]["content"]
    bodies = {
        PATH: chat,
        "/v1/messages": chat | {"max_tokens": 1_000},
        "/v1/responses": {"model": chat["model"], "stream": True, "input": said},
    }
    for path in stage.in_turn(bodies):
        warm_up(stage, peer)
        own = replace(load, path=path, body=json.dumps(bodies[path]).encode())
        results.add("translated: 500 streams, 20 events/s each", f"gateway, {path}", run(stage, peer, own))
        time.sleep(SETTLE_S)


def measure_tls(stage: Stage, results: Results) -> None:
    """Measures requests and streams with a provider that is reached over TLS."""
    names = ["gateway, provider over TLS", "gateway"]
    requests = Load(0, PATH, {}, PLAIN, 32, seconds=_seconds(stage, 3.0))
    measure(stage, results, "TLS: requests, 32 connections", names, requests)
    measure(stage, results, "TLS: 1000 streams, 50 events/s each", names, stream_load(stage, 1_000, 50))
