"""How well a budget is kept, and what that costs: the gateway's leases beside two ways that others use."""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.gateways import clean_environment
from benchmarks.machine import CannotRun, pinned
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
