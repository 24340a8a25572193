"""Computes the throughput of one, two and three hosts from measured costs: `python -m benchmarks.hosts`.

It measures the load of 64 writers on a PostgreSQL of its own: inserting rows, with the counting and folding of sums,
and drawing leases from budgets. The CPU cost of a request to the gateway and to nginx is read from docs/benchmarks.csv,
the result of a `make bench`, or from the file of another run (`--results benchmarks/results/latest.csv`). The
throughput of several hosts is then computed as a closed queueing network (mean value analysis): a station for each
worker's core, and delays without queues for nginx and the provider. PostgreSQL is not on the path of a request, so it
only bounds the rate of rows.

So this is a simulation on any machine: running three hosts with their own cores, an nginx, a PostgreSQL, a provider
and the load would take more than ten cores. It assumes that all cores are equally fast and that hosts wait only for
their cores. `make bench` measures one worker, and two on two cores (1.62 times as much).
"""

from __future__ import annotations

import argparse
import itertools
import platform
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from sqlalchemy import Engine, text

from app.config import ROOT
from app.db import create_engine_for
from app.db.activity import insert_activity
from app.db.fold import fold_deltas
from app.db.leases import draw_leases
from app.db.ledger import LedgerLine
from app.db.schema import upgrade_schema
from app.dev import EmbeddedPostgres
from benchmarks.machine import describe_machine, get_process_tree
from benchmarks.results import Results, read_results
from tests.db.budgets import add_budget, make_draw
from tests.db.rows import Row, encode, make_row

WRITERS = 64
# Rows per batch: at 10,000 requests a second, 64 writers that ship twice a second have this many each.
BATCH = 78
WORKERS_PER_HOST = 4
# The provider's time for an unstreamed request; it only determines how many requests are in flight.
PROVIDER_S = 1.0
_CASE = "requests, 32 connections"


@dataclass(frozen=True)
class Costs:
    """CPU time of a request, a row and a draw, in µs, and other measurements of PostgreSQL.

    Attributes:
        gateway_us, nginx_us: a request.
        row_us: a row at PostgreSQL, with its share of the sums.
        draw_us: a draw from a budget at PostgreSQL.
        rows_per_s, draws_per_s: the throughput of 64 writers on this machine's cores.
        draw_p99_ms: the 99th percentile of the duration of a draw.
        row_bytes, wal_bytes: the size of a row on disk, and in the write-ahead log.
    """

    gateway_us: float
    nginx_us: float
    row_us: float
    draw_us: float
    rows_per_s: float
    draws_per_s: float
    draw_p99_ms: float
    row_bytes: float
    wal_bytes: float


def simulate(costs: Costs, hosts: int, requests: int) -> tuple[float, float]:
    """Returns requests per second, and the latency that a gateway adds in ms, with `requests` always in flight.

    Exact mean value analysis of a closed network. nginx runs on as many cores as it needs, so no request waits for it.
    """
    workers = hosts * WORKERS_PER_HOST
    demand_s, think_s = costs.gateway_us / 1e6 / workers, PROVIDER_S + costs.nginx_us / 1e6
    waiting = throughput = response_s = 0.0
    for number in range(1, requests + 1):
        # All workers have the same load, so one is computed for all.
        response_s = workers * demand_s * (1 + waiting)
        throughput = number / (think_s + response_s)
        waiting = throughput * response_s / workers
    return throughput, response_s * 1e3


def measure(seconds: float, models: int, file: Path) -> Costs:
    """Measures PostgreSQL with its default durability, and reads the cost of a request from a file of `make bench`."""
    results = read_results(file)
    with tempfile.TemporaryDirectory(prefix="hosts-", ignore_cleanup_errors=True) as directory:
        server = EmbeddedPostgres(Path(directory), settings={"max_connections": "100", "shared_buffers": "256MB"})
        server.start()
        try:
            url = server.ensure_database("gateway").replace("postgresql://", "postgresql+psycopg2://", 1)
            upgrade_schema(url)
            engine = create_engine_for(url, WRITERS + 2)
            return Costs(
                gateway_us=_read_cost(results, "gateway"),
                nginx_us=_read_cost(results, "nginx"),
                **_measure_rows(engine, server, seconds, models),
                **_measure_draws(engine, server, seconds),
            )
        finally:
            engine.dispose()
            server.close()


def _read_cost(results: Results, subject: str) -> float:
    summary = results.get(_CASE, subject, "cpu_us")
    assert summary is not None, f"the file lacks {subject} in the case {_CASE!r}"
    return summary.median


def _measure_rows(engine: Engine, server: EmbeddedPostgres, seconds: float, models: int) -> dict[str, float]:
    begun = datetime.now(UTC)
    chance = random.Random(1)

    def make(number: int) -> Row:
        # Each pair of a key and a model has sums of its own.
        key, model = chance.randrange(200), f"accounts/fireworks/models/example-{chance.randrange(models)}"
        return make_row(started_at=begun + timedelta(milliseconds=number), key_id=f"key-{key}", model_served=model)

    batches = [encode(map(make, range(BATCH))) for _ in range(WRITERS)]
    wal = "SELECT pg_current_wal_insert_lsn() - '0/0'"

    def write(number: int, version: int) -> None:
        # Replacing digits of each id makes new rows from the same batch without encoding them again.
        rows = [row.replace(row[16:24], b"%08x" % (version & 0xFFFFFFFF), 1) for row in batches[number]]
        insert_activity(engine, rows, LedgerLine(worker_id=f"{number:032x}", version=version, started=version * BATCH))

    for number in range(WRITERS):
        write(number, 1)
    stop = threading.Event()
    folder = threading.Thread(target=_fold_until, args=[engine, stop])
    folder.start()
    before = _read_number(engine, wal)
    rate, cpu_us, took_s = _run(server, write, seconds)
    stop.set()
    folder.join()
    # Folding the remaining deltas belongs to the cost too.
    rest_s = -_read_cpu_s(server)
    _fold_rest(engine)
    rest_s += _read_cpu_s(server)
    rows = _read_number(engine, "SELECT count(*) FROM activity")
    size = _read_number(
        engine, "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('activity') WHERE isleaf"
    )
    return {
        "rows_per_s": rate * BATCH,
        "row_us": (cpu_us + rest_s / len(took_s) * 1e6) / BATCH,
        "row_bytes": size / rows,
        "wal_bytes": (_read_number(engine, wal) - before) / (rows - WRITERS * BATCH),
    }


def _measure_draws(engine: Engine, server: EmbeddedPostgres, seconds: float) -> dict[str, float]:
    budget = add_budget(engine, "1000000000000000")

    def draw(number: int, version: int) -> None:
        draw_leases(engine, f"{number:032x}", [make_draw(budget, version, 1_000)])

    rate, cpu_us, took_s = _run(server, draw, seconds)
    return {"draws_per_s": rate, "draw_us": cpu_us, "draw_p99_ms": statistics.quantiles(took_s, n=100)[98] * 1e3}


def _run(
    server: EmbeddedPostgres, work: Callable[[int, int], None], seconds: float
) -> tuple[float, float, list[float]]:
    """Calls `work` in WRITERS threads; returns calls a second, PostgreSQL's CPU time per call in µs, and all times."""
    took_s: list[float] = []
    end_s = time.monotonic() + seconds

    def loop(number: int) -> None:
        for version in itertools.count(2):
            begun_s = time.monotonic()
            if begun_s >= end_s:
                return
            work(number, version)
            took_s.append(time.monotonic() - begun_s)

    threads = [threading.Thread(target=loop, args=[number]) for number in range(WRITERS)]
    begun_s, before_s = time.monotonic(), _read_cpu_s(server)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cpu_s = _read_cpu_s(server) - before_s
    return len(took_s) / (time.monotonic() - begun_s), cpu_s / len(took_s) * 1e6, took_s


def _read_cpu_s(server: EmbeddedPostgres) -> float:
    assert server.child is not None
    times = [psutil.Process(pid).cpu_times() for pid in get_process_tree(server.child.process.pid)]
    return float(sum(each.user + each.system for each in times))


def _fold_until(engine: Engine, stop: threading.Event) -> None:
    while not stop.wait(1.0):
        _fold_rest(engine)


def _fold_rest(engine: Engine) -> None:
    while fold_deltas(engine, min_age_s=0).has_more:
        pass


def _read_number(engine: Engine, query: str) -> float:
    with engine.connect() as connection:
        return float(connection.execute(text(query)).scalar_one())


def main() -> None:
    """Prints the costs, and a table for one, two and three hosts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each measurement takes")
    parser.add_argument("--models", type=int, default=1, help="how many models 200 keys use; 50 is a bad case of sums")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "docs" / "benchmarks.csv", help="what a request costs, from `make bench`"
    )
    options = parser.parse_args()
    costs = measure(options.seconds, options.models, options.results)
    print(f"{describe_machine()}, Python {platform.python_version()}; {WRITERS} writers, batches of {BATCH} rows")
    print(f"rows:  {costs.rows_per_s:,.0f}/s here, {costs.row_us:.0f} µs of PostgreSQL's CPU time each,")
    print(f"       {costs.row_bytes:,.0f} bytes in tables and indexes, {costs.wal_bytes:,.0f} in the write-ahead log")
    print(f"draws: {costs.draws_per_s:,.0f}/s here, {costs.draw_us:.0f} µs each, p99 {costs.draw_p99_ms:.0f} ms")
    print(f"a request: {costs.gateway_us:.0f} µs of a gateway's core, {costs.nginx_us:.0f} µs of nginx's (make bench)")
    print(f"\nSimulated: {WORKERS_PER_HOST} workers a host, each on its own core; the provider takes {PROVIDER_S:g} s.")
    print("hosts  under way  requests/s  gateway ms  PostgreSQL's cores")
    for hosts, load in itertools.product((1, 2, 3), (0.5, 0.8, 1.5)):
        most = hosts * WORKERS_PER_HOST * 1e6 / costs.gateway_us
        requests = round(most * load * PROVIDER_S)
        throughput, added_ms = simulate(costs, hosts, requests)
        cores = throughput * costs.row_us / 1e6
        print(f"{hosts:5}  {requests:9,}  {throughput:10,.0f}  {added_ms:10,.1f}  {cores:18.2f}")


if __name__ == "__main__":
    main()
