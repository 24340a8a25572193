"""A worker's numbers in its file: exact after a kill, and at their positions after the file has grown; attempts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from app.config import load_settings
from app.metric_labels import MAX_ERRORS
from app.metric_numbers import Spread
from app.metrics import count_fallback, count_request
from app.runtime import use_settings
from app.services.journal.record import make_record

# A worker whose series outgrow the file's initial 64 KB. The first series is counted before and after that.
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


def _retries() -> dict[str, float]:
    found = {name: REGISTRY.get_sample_value("gateway_upstream_retries_total", {"provider": name}) for name in "abc"}
    return {name: value or 0 for name, value in found.items()}


def test_only_a_try_at_a_target_that_was_tried_before_is_a_retry() -> None:
    before = _retries()
    record = make_record("key", "/v1/chat/completions")
    record.gateway, record.outcome = "c", "ok"
    tried = [("a", "m"), ("a", "m"), ("a", "n"), ("b", "m"), ("a", "m"), ("c", "m"), ("c", "m"), ("c", "m")]
    record.attempts = [{"provider": provider, "model": model} for provider, model in tried]
    count_request(record)
    assert _retries() == {"a": before["a"] + 2, "b": before["b"], "c": before["c"] + 2}
    record.attempts = [{"status": 503}, {"status": 503}, {"status": 200}]  # As earlier code wrote them.
    count_request(record)
    assert _retries()["c"] == before["c"] + 4


def test_the_reasons_of_fallbacks_are_counted_and_bounded() -> None:
    use_settings(load_settings({}))
    count_fallback("a", "rate_limit_exceeded")
    for number in range(MAX_ERRORS + 5):
        count_fallback("a", f"made-up-{number}")
    count_fallback("a", "The key fw_REPLACE_ME is wrong.")
    samples = [
        sample
        for metric in REGISTRY.collect()
        if metric.name == "gateway_fallbacks"
        for sample in metric.samples
        if sample.name.endswith("_total")
    ]
    counts = {sample.labels["reason"]: sample.value for sample in samples if sample.labels["provider"] == "a"}
    assert counts["rate_limit_exceeded"] == 1 and counts["other"] == 7 and len(counts) == MAX_ERRORS + 1


def test_observations_are_added_as_the_library_adds_them() -> None:
    ours, theirs = (Histogram("h", "", buckets=(0.1, 1, 10), registry=None) for _ in range(2))
    for value in (0, 0.1, 0.10001, 1, 9.9, 10, 11, -1):
        Spread(ours).observe(value)
        theirs.observe(value)
    assert [(s.name, s.labels, s.value) for s in ours._child_samples() if s.name != "_created"] == [
        (s.name, s.labels, s.value) for s in theirs._child_samples() if s.name != "_created"
    ]
