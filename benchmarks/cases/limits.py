"""How well a budget is kept, beside two ways that others use, and what limits cost a request."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from benchmarks.cases.chat import PATH, PLAIN, run, warm_up
from benchmarks.gateways import clean_environment, run_flask
from benchmarks.machine import CannotRun, pinned
from benchmarks.native import Load
from benchmarks.peers import MODEL, Peer
from benchmarks.results import Results
from benchmarks.stage import Stage

CASE = "limits, 8 processes of 16 clients"
# By the names of benchmarks/budgets.py.
_SUBJECTS = {
    "leases": "leases (the gateway's)",
    "check": "read the sum, add afterwards",
    "local": "count locally, synchronise each second",
}
_TIMEOUT_S = 60.0

COST_CASE = "requests of keys with limits, 8 connections"
_BUDGETS = ("--budget", "1000000/month", "--budget", "100000/day")
_RATES = ("--rpm", "1000000000", "--tpm", "1000000000000", "--concurrent", "100000")
# Two, which shows how much the same differs.
_UNLIMITED = ("no limits", "no limits, another key")
# Options of `flask keys create`, and the group has a third budget. What binds a request is one list, whoever it is of.
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
# In short turns, so that what changes on the machine meanwhile concerns all of them.
_TURNS = 16
_TURN_S = 0.6


def measure_limits(stage: Stage, results: Results) -> None:
    """Measures each way once; the CPU time is that above clients without limits."""
    clients = _run(stage, "none")
    for way, subject in _SUBJECTS.items():
        measured = _run(stage, way)
        measured["cpu_us"] -= clients["cpu_us"]
        measured["server_cpu_us"] -= clients["server_cpu_us"]
        results.add(CASE, subject, measured)


def _run(stage: Stage, way: str) -> dict[str, float]:
    environment = clean_environment() | {"DATABASE_URL": stage.database_url}
    command = pinned(stage.cores.both, [sys.executable, "-m", "benchmarks.budgets", way])
    done = subprocess.run(
        command, cwd=stage.tree, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode != 0:
        raise CannotRun(f"The way {way} failed: {done.stderr.strip()[-500:]}")
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def measure_limit_costs(stage: Stage, results: Results) -> None:
    """Measures the CPU time of the same request for keys with and without limits, all in one process."""
    prices = stage.place / "prices.toml"
    prices.write_text(_PRICES)
    gateway = stage.start_gateway("limited", settings=stage.settings() | {"PRICE_FILE": str(prices)})
    try:
        peers = [Peer(name, gateway.port, _authorize(key), gateway.child) for name, key in _make_keys(stage).items()]
        for peer in peers:
            warm_up(stage, peer)
        for turn in range(_TURNS):
            measured = {}
            for peer in peers[:: -1 if turn % 2 else 1]:
                measured[peer.name] = run(stage, peer, Load(0, PATH, {}, _BODY, 8, seconds=_TURN_S, warmup_s=0.2))
                if measured[peer.name]["errors"]:
                    raise CannotRun(f"Requests failed: {measured[peer.name]['first_error']}")
            unlimited_us = statistics.fmean(measured[name]["cpu_us"] for name in _UNLIMITED)
            for peer in peers:
                to_unlimited = measured[peer.name]["cpu_us"] / unlimited_us
                results.add(COST_CASE, peer.name, measured[peer.name] | {"to_unlimited": to_unlimited})
    finally:
        gateway.child.stop()


def _authorize(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _make_keys(stage: Stage) -> dict[str, str]:
    """Returns name → key, made anew, because a holder keeps what was charged."""
    group = f"limited-{time.time_ns()}"
    run_flask(stage.tree, stage.database_url, "groups", "create", group, "--budget", "10000000/month")
    keys = {}
    for name, options in _KEYS.items():
        words = [group if word == "limited" else word for word in options]
        output = run_flask(stage.tree, stage.database_url, "keys", "create", f"{name}-{time.time_ns()}", *words)
        keys[name] = output.split()[0]
    return keys
