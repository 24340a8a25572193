"""Measures statistics over ten million rows of activity, and how dropping a million of them slows down requests.

    python -m benchmarks.stats [--rows 10000000]

It starts a PostgreSQL, a sandbox and a gateway of its own. The history is written by the insert statement from before
migration 0007 and then migrated, because folding ten million deltas would take an hour; this also times the migration.
It prints tables: statistics of all requests, of a provider and of a key, by themselves and while rows are inserted.
The database has PostgreSQL's default durability.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.dialects import postgresql

from app.config import ROOT, load_settings
from app.db import create_engine_for, tables
from app.db.activity import insert_activity
from app.db.partitions import insert_partitions
from app.db.schema import upgrade_schema
from app.runtime import use_settings
from app.services.reports.retention import drop_days
from tests.db.rows import insert_keys
from tests.sandbox.client import run_sandbox
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.postgres import running_postgres
from tests.support.sandbox import Sandbox
from tests.support.tree import copy_tree

DAYS = 40
MODELS = 50
KEYS = 200
ASKED = ("1h", "24h", "7d", "30d", "all")
ASKED_OF = {"all": "all/stats?scope=all", "fireworks": "fireworks/stats?scope=all", "a key": "all/stats?key=key-7"}
ASKS = 41
# Rows that are inserted during the second measurement, in batches like a worker's.
SHIPPED_PER_S = 2_000
BATCH_ROWS = 100

# The settings of a small server. fsync and full_page_writes are on by default, but the tests' server has them off.
SERVER = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "512MB", "max_wal_size": "4GB"}

# A load below saturation, because the p99 of a saturated machine would say nothing about the purge.
CONNECTIONS, PAUSE_S, WINDOW_S = 4, 0.02, 6.0
PURGED_ROWS = 1_000_000
PURGES = 5


def main() -> None:
    """Runs the measurements and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    rows = parser.parse_args().rows
    sys.stdout.reconfigure(line_buffering=True)  # A run takes long, so lines should appear at once even in a file.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, running_postgres(SERVER) as server:
        place = Path(name)
        upgrade_schema(server.url, "0006")
        write_history(server.url, rows)
        migrate(server.url)
        engine = create_engine_for(server.url)
        insert_keys(engine, "key-7")
        with run_sandbox("--pace-ms", "2", "--die-with-parent") as sandbox:
            settings = base_settings(place, server.url) | Sandbox(sandbox.url).settings
            with running_gateway(copy_tree(place / "tree"), place, settings) as gateway:
                measure_stats(gateway, rows)
                with shipping(engine):
                    time.sleep(2)
                    print(f"\nwhile {SHIPPED_PER_S:,} rows/s are inserted:")
                    measure_stats(gateway, rows)
                use_settings(load_settings(settings))
                _measure_purge(gateway, rows)
        engine.dispose()


def write_history(url: str, rows: int) -> None:
    """Writes `rows` requests of DAYS days into a database with migration 0006."""
    engine = create_engine(url, connect_args={"options": "-c statement_timeout=0 -c timezone=UTC"})
    days = [datetime.now(UTC).date() - timedelta(days=back) for back in reversed(range(DAYS))]
    with engine.begin() as connection:
        insert_partitions(connection, days)
    began_s = time.monotonic()
    for day in days:
        _write_day(engine, day, rows // DAYS)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        size = connection.execute(text("SELECT pg_size_pretty(pg_database_size(current_database()))")).scalar()
    print(f"{rows:,} rows of {DAYS} days written in {time.monotonic() - began_s:.0f} s; the database has {size}")
    engine.dispose()


def migrate(url: str) -> None:
    """Migrates the database and prints how long that takes and how large it is then."""
    began_s = time.monotonic()
    upgrade_schema(url)
    took_s = time.monotonic() - began_s
    engine = create_engine(url, connect_args={"options": "-c statement_timeout=0"}, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))
        size = connection.execute(text("SELECT pg_size_pretty(pg_database_size(current_database()))")).scalar()
    print(f"migrated in {took_s:.0f} s; the database has {size}")
    engine.dispose()


def _write_day(engine: Engine, day: date, rows: int) -> None:
    dialect = postgresql.dialect()
    types = {column.name: column.type.compile(dialect) for column in tables.activity.columns}
    # The statement has no column worker_id, which came with the migration.
    nothing = {name: f"CAST(NULL AS {type_})" for name, type_ in types.items() if name != "worker_id"}
    columns = ", ".join(f"{value} AS {name}" for name, value in (nothing | _VALUES).items())
    source = f"""CROSS JOIN (SELECT {columns} FROM (SELECT n, hashint8(n) & 2147483647 AS a,
        hashint8(n + 1000000007) & 2147483647 AS b, hashint8(n + 2000000011) & 2147483647 AS c
        FROM generate_series(1, %(rows)s) AS n) AS numbers) AS generated"""
    statement = re.sub(r"CROSS JOIN jsonb_to_recordset.*", lambda _: source, _OLD_INSERT, count=1)
    values = {"day": day, "rows": rows, "models": MODELS, "keys": KEYS, "ledger": _LEDGER}
    with engine.begin() as connection:
        connection.exec_driver_sql(statement, values)


_OLD_INSERT = (ROOT / "tests" / "db" / "old_insert.sql").read_text()
_COUNTS = ("in_flight", "unshipped", "unrecorded", "rejected", "unsent", "direct", "segment", "byte_offset")
_LEDGER = json.dumps({"worker_id": "benchmark", "version": 1, "started": 0, **dict.fromkeys(_COUNTS, 0)})


# Hashes of the row number serve as random numbers. A model belongs to one gateway. One request in ten fails, in five
# ways.
_VALUES = {
    "request_id": "gen_random_uuid()",
    "started_at": "CAST(%(day)s AS timestamp) AT TIME ZONE 'UTC' + n * interval '1 day' / (%(rows)s + 1.0)",
    "key_id": "'key-' || a %% %(keys)s",
    "gateway": "(ARRAY['fireworks', 'fireworks', 'featherless', 'deepinfra'])[1 + c %% %(models)s %% 4]",
    "endpoint": "'/v1/chat/completions'",
    "model_requested": "'accounts/fireworks/models/example-' || c %% %(models)s",
    "model_served": "'accounts/fireworks/models/example-' || c %% %(models)s",
    "stream": "a %% 2 = 0",
    "status": "CASE WHEN b %% 100 < 7 THEN 502 ELSE 200 END",
    "outcome": "(ARRAY['upstream_error', 'upstream_error', 'upstream_error', 'upstream_error', 'upstream_error',"
    " 'upstream_timeout', 'upstream_cut', 'client_gone', 'client_gone', 'client_gone'])[1 + b %% 100]",
    "error_type": "(ARRAY['upstream_error', 'rate_limit_error', 'upstream_error', 'upstream_error',"
    " 'rate_limit_error', 'upstream_timeout', 'upstream_error'])[1 + b %% 100]",
    "prompt_tokens": "a %% 4000",
    "completion_tokens": "b %% 900",
    "cached_tokens": "c %% 500",
    "usage_source": "'provider'",
    "cost_usd": "(a %% 100000) * 0.00000001",
    "cost_kind": "CASE WHEN b %% 100 IN (6, 7, 8, 9) THEN 'estimated' ELSE 'exact' END",
    "duration_ms": "exp(6 + (a %% 10000) / 2500.0)",
    "ttft_ms": "exp(4 + (b %% 10000) / 2500.0)",
    "tokens_per_second": "20 + c %% 100",
}
_VALUES["outcome"] = f"coalesce({_VALUES['outcome']}, 'ok')"


def measure_stats(gateway: Gateway, rows: int) -> None:
    """Requests statistics for all time ranges, of all requests, one provider and one key, and prints the times."""
    print(f"\nstatistics over {rows:,} rows, {ASKS} requests each, over HTTP:   median      p95   requests counted")
    for time_range in ASKED:
        for name, path in ASKED_OF.items():
            times_ms, counted = _ask_repeatedly(gateway, f"/api/catalog/gateway/{path}&time_range={time_range}")
            median, p95 = statistics.median(times_ms), sorted(times_ms)[int(len(times_ms) * 0.95)]
            print(f"  {name:10} {time_range:>4} {median:>44.1f} ms {p95:>5.1f} ms {counted:>18,}")


@contextmanager
def shipping(engine: Engine) -> Iterator[None]:
    """Inserts SHIPPED_PER_S current rows a second during a `with` block; the gateway folds their counts."""
    stop = threading.Event()
    thread = threading.Thread(target=_ship_until, args=(engine, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _ship_until(engine: Engine, stop: threading.Event) -> None:
    number = 0
    began_s = time.monotonic()
    while not stop.wait(max(0.0, began_s + number / SHIPPED_PER_S - time.monotonic())):
        rows = []
        for _ in range(BATCH_ROWS):
            number += 1
            row = _ROW | {
                "request_id": str(uuid.uuid4()),
                "started_at": datetime.now(UTC).isoformat(),
                "key_id": f"key-{number * 7919 % KEYS}",
                "model_served": f"accounts/fireworks/models/example-{number * 104729 % MODELS}",
            }
            rows.append(json.dumps(row).encode())
        insert_activity(engine, rows)


_ROW = {
    "gateway": "fireworks",
    "endpoint": "/v1/chat/completions",
    "stream": True,
    "status": 200,
    "outcome": "ok",
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "usage_source": "provider",
    "cost_usd": "0.0001",
    "cost_kind": "exact",
    "duration_ms": 1500.0,
    "ttft_ms": 300.0,
}


def _ask_repeatedly(gateway: Gateway, path: str) -> tuple[list[float], int]:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    times_ms, counted = [], 0
    for _ in range(ASKS):
        began_s = time.perf_counter()
        connection.request("GET", path, headers=gateway.headers)
        content = json.load(connection.getresponse())
        times_ms.append((time.perf_counter() - began_s) * 1000)
        counted = content["data"]["total_requests"]
    connection.close()
    return times_ms, counted


def _measure_purge(gateway: Gateway, rows: int) -> None:
    days = -(-PURGED_ROWS // (rows // DAYS))
    oldest = datetime.now(UTC).date() - timedelta(days=DAYS - 1)
    print(f"\npurge of {days} days ({days * (rows // DAYS):,} rows); p99 of chat requests in {WINDOW_S:g} s")
    ratios = []
    with _load(gateway) as finished:
        time.sleep(2)
        for number in range(PURGES):
            before = _p99_ms(finished, WINDOW_S)
            purge = threading.Thread(target=_purge, args=(oldest + timedelta(days=days * (number + 1)),))
            purge.start()
            meanwhile = _p99_ms(finished, WINDOW_S)
            purge.join()
            ratios.append(meanwhile / before)
            print(f"  before {before:6.1f} ms   meanwhile {meanwhile:6.1f} ms   {ratios[-1]:.2f}")
    print(f"  median of the ratios: {statistics.median(ratios):.2f}")


def _purge(before: date) -> None:
    began_s = time.monotonic()
    dropped = list(drop_days(before))
    print(f"  ({len(dropped)} days dropped in {(time.monotonic() - began_s) * 1000:.0f} ms)")


@contextmanager
def _load(gateway: Gateway) -> Iterator[list[float]]:
    """Sends chat requests continuously; yields the list to which the duration of each is appended, in milliseconds."""
    finished: list[float] = []
    stop = threading.Event()
    threads = [threading.Thread(target=_send_until, args=(gateway, stop, finished)) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    yield finished
    stop.set()
    for thread in threads:
        thread.join()


def _send_until(gateway: Gateway, stop: threading.Event, finished: list[float]) -> None:
    body = json.dumps({"model": "accounts/fireworks/models/deepseek-v3p1", "max_tokens": 1, "messages": _MESSAGES})
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    headers = gateway.headers | {"content-type": "application/json"}
    while not stop.wait(PAUSE_S):
        began_s = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        finished.append((time.perf_counter() - began_s) * 1000)
    connection.close()


_MESSAGES = [{"role": "user", "content": "Hello!"}]


def _p99_ms(finished: list[float], seconds: float) -> float:
    first = len(finished)
    time.sleep(seconds)
    times_ms = sorted(finished[first:])
    return times_ms[int(len(times_ms) * 0.99)]


if __name__ == "__main__":
    main()
