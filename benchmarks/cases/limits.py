"""How exactly a budget is kept, compared with two other ways, and what limits and fallback lists cost per request."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from benchmarks.cases.chat import PATH, PLAIN, run, warm_up
from benchmarks.gateways import clean_environment, run_flask
from benchmarks.machine import CannotRun, pinned
from benchmarks.native import Load
from benchmarks.peers import MODEL, SECOND_MODEL, Peer
from benchmarks.results import OTHER, Results
from benchmarks.stage import Stage

CASE = "limits, 8 processes of 16 clients"
# By the names of benchmarks/budgets.py.
_SUBJECTS = {
    "leases": "leases (the gateway's)",
    "check": "read the sum, add afterwards",
    "local": "count locally, synchronise each second",
}
_TIMEOUT_S = 60.0

COST_CASE = "requests with limits or a fallback list, 8 connections"
FALLBACK = "no limits, fallback list"
_BUDGETS = ("--budget", "1000000/month", "--budget", "100000/day")
_RATES = ("--rpm", "1000000000", "--tpm", "1000000000000", "--concurrent", "100000")
# Two keys alike, to show the spread between equal measurements.
_UNLIMITED = ("no limits", "no limits, another key")
# Options of `flask keys create`; the group has a third budget. The limits of a holder and its group form one list.
_KEYS = {
    **dict.fromkeys(_UNLIMITED, ()),
    "two budgets": _BUDGETS,
    "rates and requests at once": _RATES,
    "all": ("--group", "limited", *_BUDGETS, *_RATES, "--models", "fireworks/*"),
}
_PRICES = f"""unit = "usd_per_million_tokens"

[fireworks."{MODEL}"]
prompt = 0.56
completion = 1.68
input_cache_read = 0.28
"""
_BODY = json.dumps({**json.loads(PLAIN), "max_tokens": 200}).encode()
# With a second target that is never used.
_FALLBACK_BODY = json.dumps({**json.loads(_BODY), "models": [SECOND_MODEL]}).encode()
# Short turns, so that changes on the machine affect all subjects alike.
_TURNS = 4
_TURN_S = 0.6


def measure_limits(stage: Stage, results: Results) -> None:
    """Measures each way once; the CPU time is the excess over clients without limits."""
    clients = _run(stage, "none")
    for way, subject in _SUBJECTS.items():
        measured = _run(stage, way)
        measured["cpu_us"] -= clients["cpu_us"]
        measured["server_cpu_us"] -= clients["server_cpu_us"]
        results.add(CASE, subject, measured)


def _run(stage: Stage, way: str) -> dict[str, float]:
    environment = clean_environment() | {"DATABASE_URL": stage.database_url}
    command = pinned(stage.cores.both, [sys.executable, "-m", "benchmarks.budgets", way])
    try:
        done = subprocess.run(
            command, cwd=stage.tree, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise CannotRun(f"The way {way} did not end: {str(error.stderr or '')[-500:]}") from error
    if done.returncode != 0:
        raise CannotRun(f"The way {way} failed: {done.stderr.strip()[-500:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def measure_limit_costs(stage: Stage, results: Results) -> None:
    """Measures the CPU time of the same request for keys with and without limits, all in one process.

    Also with a fallback list, and compared with the other checkout without limits or fallback list.
    """
    prices = stage.place / "prices.toml"
    prices.write_text(_PRICES)
    settings = stage.settings() | {"PRICE_FILE": str(prices)}
    with ExitStack() as stack:
        gateway = stage.start_gateway("limited", settings=settings)
        stack.callback(gateway.child.stop)
        keys = _make_keys(stage)
        peers = [Peer(name, gateway.port, _authorize(key), gateway.child) for name, key in keys.items()]
        peers.append(replace(peers[0], name=FALLBACK))
        if stage.options.against:
            other = stage.start_other("limited-other", settings)
            stack.callback(other.child.stop)
            peers.append(Peer(OTHER, other.port, _authorize(stage.key), other.child))
        for peer in peers:
            warm_up(stage, peer)
        for turn in range(_TURNS):
            for name, measured in _measure_turn(stage, peers[:: -1 if turn % 2 else 1]).items():
                results.add(COST_CASE, name, measured)


def _measure_turn(stage: Stage, peers: Sequence[Peer]) -> dict[str, dict[str, Any]]:
    """Returns subject → measurements, also relative to a request without limits in the same turn."""
    turn = {}
    for peer in peers:
        body = _FALLBACK_BODY if peer.name == FALLBACK else _BODY
        turn[peer.name] = run(stage, peer, Load(0, PATH, {}, body, 8, seconds=_TURN_S, warmup_s=0.2))
        if turn[peer.name]["errors"]:
            raise CannotRun(f"Requests failed: {turn[peer.name]['first_error']}")
    unlimited_us = statistics.fmean(turn[name]["cpu_us"] for name in _UNLIMITED)
    for measured in turn.values():
        measured["to_unlimited"] = measured["cpu_us"] / unlimited_us
        if OTHER in turn:
            measured["to_other"] = measured["cpu_us"] / turn[OTHER]["cpu_us"]
    return turn


def _authorize(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _make_keys(stage: Stage) -> dict[str, str]:
    """Returns name → key. Each call makes new keys, because a holder's charges persist."""
    group = f"limited-{time.time_ns()}"
    run_flask(stage.tree, stage.database_url, "groups", "create", group, "--budget", "10000000/month")
    keys = {}
    for name, options in _KEYS.items():
        words = [group if word == "limited" else word for word in options]
        output = run_flask(stage.tree, stage.database_url, "keys", "create", f"{name}-{time.time_ns()}", *words)
        keys[name] = output.split()[0]
    return keys
