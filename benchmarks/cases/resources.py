"""Start-up time, memory and the cost of recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

from benchmarks.cases.chat import PATH, PLAIN, measure, stream_load, warm_up
from benchmarks.gateways import Gateway, clean_environment
from benchmarks.machine import CannotRun, pinned
from benchmarks.native import Load
from benchmarks.peers import Peer
from benchmarks.results import ELSEWHERE, GATEWAY, Results
from benchmarks.stage import Stage

_STREAMS = 1_000
_SHIPPED_ROWS = 50_000


def measure_start(stage: Stage, results: Results) -> None:
    """Measures the time from gunicorn's start to the first response, and the memory of a thousand streams."""
    _measure_fresh(stage, results, GATEWAY, stage.settings())
    if stage.options.python:
        _measure_fresh(stage, results, GATEWAY + ELSEWHERE, stage.settings(), stage.other_python())
    try:
        settings = stage.tls_settings()
    except CannotRun as error:
        stage.skipped["TLS"] = str(error)
        return
    _measure_fresh(stage, results, "gateway, provider over TLS", settings)


def _measure_fresh(
    stage: Stage, results: Results, name: str, settings: dict[str, str], python: str = sys.executable
) -> None:
    gateway = stage.start_gateway("fresh", settings=settings, python=python)
    first_answer_s = gateway.boot_s + _send_first(stage, gateway)
    peer = Peer(name, gateway.port, {"Authorization": f"Bearer {stage.key}"}, gateway.child)
    warm_up(stage, peer)
    idle = gateway.get_resource_usage().memory_bytes
    load = replace(stream_load(stage, _STREAMS, 20), seconds=2.0)
    callers = stage.run_load(Load(**vars(load) | {"port": peer.port, "headers": peer.headers}))
    time.sleep(load.ramp_s + load.warmup_s + load.seconds * 0.8)
    live = gateway.get_resource_usage().memory_bytes
    callers.result()
    gateway.child.stop()
    measured = {
        "first_answer_s": first_answer_s,
        "idle_mb": idle / 1e6,
        "kb_per_stream": (live - idle) / 1e3 / _STREAMS,
    }
    results.add("start and memory", name, measured)


def _send_first(stage: Stage, gateway: Gateway) -> float:
    """Sends a chat request with a key that is new to the process, and returns its duration in seconds."""
    headers = {"Authorization": f"Bearer {stage.key}"}
    load = Load(gateway.port, PATH, headers, PLAIN, warmup_s=0.0, seconds=0.5)
    return float(stage.run_load(load).result()["latency_max_ms"]) / 1000


def measure_recording(stage: Stage, results: Results) -> None:
    """Measures the same requests with and without a record."""
    load = Load(0, PATH, {}, PLAIN, 32, seconds=2.0 if stage.options.quick else 3.0)
    measure(stage, results, "recording, 32 connections", ["gateway, not recording", "gateway, recording"], load)


def measure_workers(stage: Stage, results: Results) -> None:
    """Measures one worker and two, all of which may run on either core beside the load."""
    load = Load(0, PATH, {}, PLAIN, 64, seconds=2.0 if stage.options.quick else 3.0)
    names = ["gateway, one worker, any core", "gateway, two workers, any core"]
    measure(stage, results, "workers, 64 connections", names, load)


def measure_shipping(stage: Stage, results: Results) -> None:
    """Measures how many rows per second one process ships from its journal to PostgreSQL."""
    journal = stage.place / f"shipping-{os.urandom(4).hex()}"
    environment = clean_environment() | stage.settings() | {"JOURNAL_DIR": str(journal)}
    rows = _SHIPPED_ROWS // 5 if stage.options.quick else _SHIPPED_ROWS
    command = pinned([stage.cores.subject], [sys.executable, "-m", "benchmarks.shipping", str(rows)])
    done = subprocess.run(command, cwd=stage.tree, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotRun(f"Shipping failed: {done.stderr.strip()[-500:]}")
    results.add("shipping", "gateway", json.loads(done.stdout))
