"""Measures the memory, connections and disk of a gateway: `python -m benchmarks.sizes`, in about a minute.

    --rows 100000   how many records are written to measure their size

It prints the memory of an idle worker, the connections to PostgreSQL that a worker has open under concurrent requests
for completions, statistics and readiness, and the disk space per million records: in PostgreSQL, with all indexes and
sums, and in the journal while PostgreSQL is away. PostgreSQL is embedded, and the sandbox plays the provider.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from app.config import ROOT
from app.dev import EmbeddedPostgres, sandbox_settings, start_sandbox
from benchmarks.gateways import Gateway, clean_environment, copy_tree, prepare_database, start_gateway

_MB = 1_000_000
_MILLION = 1_000_000
_ASKERS = 32
_ROUNDS = 15
_MODEL = "accounts/fireworks/models/deepseek-v3p1"
_DAY = "2026-11-26"


def main() -> None:
    """Prints the sizes as a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes")
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place.chmod(0o755)  # As root, the server runs as another user.
        server = EmbeddedPostgres(place / "postgres")
        stack.callback(server.close)
        server.start()
        copy_tree(ROOT, place / "tree")
        sandbox, sandbox_url = start_sandbox(place / "sandbox.log")
        stack.callback(sandbox.stop)
        for name, measure in (
            ("worker", lambda: _measure_worker(place, server, sandbox_settings(sandbox_url))),
            ("records", lambda: _measure_records(place, server, rows)),
        ):
            for what, size in measure().items():
                print(f"{name:8} {what:52} {size}", flush=True)


def _measure_worker(place: Path, server: EmbeddedPostgres, provider: dict[str, str]) -> dict[str, str]:
    url = server.ensure_database("worker")
    key = prepare_database(place / "tree", url)
    settings = {"DATABASE_URL": url, "GATEWAY_API_KEY": key, **provider}
    gateway = start_gateway(place / "tree", place / "gateway", settings, cores=sorted(os.sched_getaffinity(0)))
    try:
        (worker,) = gateway.workers()
        at_rest = psutil.Process(worker).memory_full_info()
        arbiter = psutil.Process(gateway.child.process.pid).memory_full_info()
        connections = _ask_at_once(gateway, key, lambda: _count_connections(server))
        after = psutil.Process(worker).memory_full_info()
    finally:
        gateway.child.stop()
    return {
        "memory at rest, of its own (USS)": f"{at_rest.uss / _MB:.0f} MB",
        f"memory after {_ASKERS * _ROUNDS * 3} requests (USS)": f"{after.uss / _MB:.0f} MB",
        "memory of the main process (USS)": f"{arbiter.uss / _MB:.0f} MB",
        "most connections to PostgreSQL": str(connections),
    }


def _count_connections(server: EmbeddedPostgres) -> int:
    return int(server.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = 'worker'")[0][0])


def _ask_at_once(gateway: Gateway, key: str, count: Callable[[], int]) -> int:
    """Sends requests from many connections at once, and returns the highest result of `count` meanwhile."""
    body = json.dumps({"model": _MODEL, "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    paths = ("/api/catalog/gateway/all/stats?time_range=24h", "/api/activity?limit=100", "/api/usage", "/ready")

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        for turn in range(_ROUNDS):
            connection.request("POST", "/v1/chat/completions", body, headers)
            connection.getresponse().read()
            unknown = {"Authorization": f"Bearer gw_unknown{number}x{turn}"}  # Each takes a separate look-up.
            for one in (unknown, headers):
                connection.request("GET", paths[(number + turn) % len(paths)], headers=one)
                connection.getresponse().read()
        connection.close()

    most = 0
    with ThreadPoolExecutor(_ASKERS) as pool:
        asking = [pool.submit(ask, number) for number in range(_ASKERS)]
        while not all(each.done() for each in asking):
            most = max(most, count())
        for each in asking:
            each.result()
    return most


def _measure_records(place: Path, server: EmbeddedPostgres, rows: int) -> dict[str, str]:
    url = server.ensure_database("records")
    prepare_database(place / "tree", url)
    size = "SELECT pg_database_size('records')"
    before = int(server.execute(size)[0][0])
    journal = place / "journal"
    _ship(place / "tree", {"DATABASE_URL": url, "JOURNAL_DIR": str(journal)}, rows)
    server.execute("VACUUM ANALYZE", "records")
    in_database = int(server.execute(size)[0][0]) - before
    activity = "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('activity')"
    of_activity = int(server.execute(activity, "records")[0][0])
    return {
        "disk of a million in PostgreSQL": f"{in_database * _MILLION / rows / _MB:.0f} MB",
        "of it records and their indexes": f"{of_activity * _MILLION / rows / _MB:.0f} MB",
        "disk of a million in the journal, database away": f"{_measure_line() * _MILLION / _MB:.0f} MB",
    }


def _ship(tree: Path, settings: dict[str, str], rows: int) -> None:
    command = [sys.executable, "-m", "benchmarks.shipping", str(rows), "--keys", "200"]
    environment = clean_environment() | settings
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"The records could not be written: {done.stderr[-500:]}")


def _measure_line() -> int:
    """Returns the bytes of one request in the journal: a line at its start and one at its end."""
    from app.services.journal.record import ActivityRecord, encode_record

    record = ActivityRecord(
        request_id="019ab2c4-5d6e-7f80-9abc-def012345678",
        started_at=f"{_DAY}T06:44:52.123456+00:00",
        key_id="4fGh2Kl9Pq",
        endpoint="/v1/chat/completions",
        gateway="fireworks",
        model_requested=_MODEL,
        model_served=_MODEL,
    )
    start = encode_record(record)
    record.status, record.outcome, record.finish_reason = 200, "ok", "stop"
    record.prompt_tokens, record.completion_tokens, record.usage_source = 1_024, 256, "provider"
    record.cost_usd, record.cost_kind, record.price_source, record.price_date = "0.000256", "exact", "packaged", _DAY
    record.duration_ms, record.upstream_status, record.upstream_request_id = 1_234.5678, 200, record.request_id
    return len(start) + len(encode_record(record)) + 2 * len("S\n")


if __name__ == "__main__":
    main()
