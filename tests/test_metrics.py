"""The numbers of a worker, in its file: exact after a kill, and at their places when the file has grown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

# Its series take more than the 64 KB with which a file begins. The first is counted before and after it grows.
WORKER = """
import os, signal
from app.metrics import failed_key_checks_total, overhead_seconds, unrecorded_refusals_total

first = failed_key_checks_total.labels("database_unavailable")
first.inc()
overhead_seconds.labels("false").observe(0.25)
for number in range(1_000):
    unrecorded_refusals_total.labels(f"/{number}/" + "x" * 100).inc(number)
first.inc(2)
overhead_seconds.labels("false").observe(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_leaves_exact_numbers_in_a_file_that_has_grown(tmp_path: Path) -> None:
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WORKER], env=environment, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (counters,) = tmp_path.glob("counter_*.db")
    assert counters.stat().st_size > 64 << 10

    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call]
    assert registry.get_sample_value("gateway_key_checks_failed_total", {"reason": "database_unavailable"}) == 3
    for number in (0, 1, 500, 999):
        labels = {"route": f"/{number}/" + "x" * 100}
        assert registry.get_sample_value("gateway_unrecorded_refusals_total", labels) == number
    overhead = "gateway_overhead_seconds"
    assert registry.get_sample_value(f"{overhead}_sum", {"stream": "false"}) == 0.75
    assert registry.get_sample_value(f"{overhead}_bucket", {"stream": "false", "le": "1.0"}) == 2
    assert registry.get_sample_value(f"{overhead}_bucket", {"stream": "false", "le": "0.1"}) == 0
