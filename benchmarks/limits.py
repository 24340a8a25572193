"""Measures the cost of limits: `python -m benchmarks.limits`, with its own PostgreSQL.

It prints a line of JSON: the CPU time of a request's limits while memory suffices, and of a draw from the database.

    reserve_settle_us   enter, reserve, settle and release of a request under two budgets, two rates and a limit of
                        concurrent requests, of the holder and the group; the best of nine rounds
    headers_us          the headers of its response
    one_budget_us       the same under one budget
    draw_us             the worker's CPU time of a draw from one budget, without the server's
    draw_ms             how long it takes
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from app.config import load_settings
from app.db import Database, create_engine_for
from app.db.leases import LeaseDraw, compute_period_id, draw_leases
from app.db.schema import upgrade_schema
from app.dev import EmbeddedPostgres
from app.runtime import Runtime
from app.services.limits import Budget, Ceiling, Charge, Limits, Policy, Subject, get_period

_ROUNDS, _REQUESTS, _DRAWS = 9, 20_000, 2_000
_CEILING = Ceiling(10**9, 1_000, 500, lambda cost, tokens: None)
_CHARGE = Charge(10**8, 500, 1, 400)


def main() -> None:
    """Prints the figures."""
    with tempfile.TemporaryDirectory(prefix="limits-") as directory:
        server = EmbeddedPostgres(Path(directory), durable=True)
        server.start()
        try:
            url = server.database_url("postgres").replace("postgresql://", "postgresql+psycopg2://", 1)
            upgrade_schema(url)
            runtime = Runtime(load_settings({"DATABASE_URL": url, "JOURNAL_DIR": directory}))
            _add_budgets(runtime)
            print(json.dumps(_measure(runtime)))
            stopped = runtime.get(Limits).stop(5)
            assert stopped
            runtime.close()
        finally:
            server.close()


def _add_budgets(runtime: Runtime) -> None:
    with runtime.get(Database).engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO subject (id, kind, name) VALUES ('holder', 'holder', 'holder'), ('group', 'group', 'group')"
        )
        connection.exec_driver_sql(
            "INSERT INTO budget (subject_id, unit, amount, time_window) VALUES ('holder', 'usd', 1000000, 'month'),"
            " ('group', 'tokens', 1000000000000, 'day'), ('group', 'requests', 1000000000000, 'total')"
        )


def _measure(runtime: Runtime) -> dict[str, float]:
    month = Budget(1, "usd", "1000000", "month", "UTC", 1, ())
    day = Budget(2, "tokens", "1000000000000", "day", "UTC", 1, ())
    holder = Subject("holder", "holder", "holder", "group", (), 10**9, 10**12, 10**6, None, (month,))
    group = Subject("group", "group", "group", None, (), None, None, None, None, (day,))
    limits = runtime.get(Limits)
    all_us = _time_requests(limits, Policy((holder, group), (), None))
    headers_us = _time_headers(limits, Policy((holder, group), (), None))
    bare = Subject("holder", "holder", "holder", None, (), None, None, None, None, (month,))
    one_us = _time_requests(limits, Policy((bare,), (), None))
    draw_us, draw_ms = _time_draws(runtime)
    figures = {
        "reserve_settle_us": all_us,
        "headers_us": headers_us,
        "one_budget_us": one_us,
        "draw_us": draw_us,
        "draw_ms": draw_ms,
    }
    return {name: round(value, 2) for name, value in figures.items()}


def _time_requests(limits: Limits, policy: Policy) -> float:
    """Returns the microseconds of a request, the best of all rounds; the draws between the rounds do not count."""
    best_s = float("inf")
    for _ in range(_ROUNDS):
        for _ in range(100):
            _serve(limits, policy)
        began_s = time.thread_time()
        for _ in range(_REQUESTS):
            _serve(limits, policy)
        best_s = min(best_s, time.thread_time() - began_s)
    return best_s / _REQUESTS * 1e6


def _time_headers(limits: Limits, policy: Policy) -> float:
    reservation = limits.enter(policy)
    best_s = float("inf")
    for _ in range(_ROUNDS):
        began_s = time.thread_time()
        for _ in range(_REQUESTS):
            reservation.get_headers()
        best_s = min(best_s, time.thread_time() - began_s)
    reservation.release()
    return best_s / _REQUESTS * 1e6


def _serve(limits: Limits, policy: Policy) -> None:
    reservation = limits.enter(policy)
    reservation.reserve([_CEILING])
    reservation.settle(_CHARGE)
    reservation.release()


def _time_draws(runtime: Runtime) -> tuple[float, float]:
    # An engine of its own, because continuous draws on the worker's connection would keep the worker's thread from it.
    engine = create_engine_for(str(runtime.settings.database_url), 1)
    period = get_period("total", "UTC", 1, time.time())
    began_s, began_cpu_s = time.monotonic(), time.thread_time()
    for version in range(1, _DRAWS + 1):
        total = str(version * 10)
        draw = LeaseDraw(
            budget=3,
            period=compute_period_id(3, period.start),
            start_at=period.start.isoformat(),
            end_at=None,
            since=None,
            version=version,
            used=total,
            need=total,
            firm=total,
            want=total,
        )
        draw_leases(engine, "benchmark", [draw])
    engine.dispose()
    return (time.thread_time() - began_cpu_s) / _DRAWS * 1e6, (time.monotonic() - began_s) / _DRAWS * 1e3


if __name__ == "__main__":
    main()
