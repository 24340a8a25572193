"""PostgreSQL is stopped, killed, frozen and restarted under load: no request is affected, and no row is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from app.db.keys import insert_key
from app.services.keys import digest_of, new_key
from tests.soak.audit import select_rows, wait_until_settled
from tests.soak.brute_force import check_statistics
from tests.soak.conftest import MakeAudited
from tests.soak.kinds import count_by_model
from tests.soak.load import Load, Visit, mixed_plans
from tests.support.activity_tables import ActivityTables
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

# Eight clients with a request every tenth of a second leave the machine half idle, so that the load itself slows
# nothing down.
_CLIENTS, _EVERY_S = 8, 0.1
_STEADY = {"plain": 50, "stream": 50}
# Few model names, so that a worker's memory for each does not count as growth.
_MODELS = 50

# A request that waited for the database would wait for two seconds or more, the gateway's limits on such waits. Other
# work of the machine delays it less.
_SLOWER_S = 0.25
_MOST_GROWTH_BYTES = 10_000_000


class _Phases:
    """The times of each disturbance of the database, and the memory of the workers after it."""

    def __init__(self, workers: list[int]) -> None:
        self._workers = workers
        self.times: dict[str, tuple[float, float]] = {}
        self.bytes: dict[str, list[int]] = {}

    def run(self, name: str, *steps: Callable[[], object]) -> None:
        """Takes the steps and keeps the times of their start and end."""
        started_s = time.monotonic()
        for step in steps:
            step()
        self.times[name] = started_s, time.monotonic()
        self.bytes[name] = [_weigh(pid) for pid in self._workers]

    def p99_s(self, visits: Sequence[Visit]) -> dict[str, float]:
        """Returns the 99th percentile of the latencies of the requests that were in flight in each phase."""
        return {name: _p99_s([visit for visit in visits if visit.overlaps(self.times[name])]) for name in self.times}

    def growth_bytes(self) -> dict[str, int]:
        """Returns the most that a worker's memory after each phase exceeded that after the first outage.

        A full batch of rows is in memory several times while it is sent, but this memory is allocated only once.
        """
        return {name: max(map(int.__sub__, sizes, self.bytes["stopped"])) for name, sizes in self.bytes.items()}


def _weigh(pid: int) -> int:
    """Returns the resident bytes of a process between two batches."""
    sizes = []
    for _ in range(5):
        sizes.append(int(psutil.Process(pid).memory_info().rss))
        time.sleep(0.1)
    return min(sizes)


def _p99_s(visits: list[Visit]) -> float:
    values = sorted(visit.ended_s - visit.started_s for visit in visits)
    return round(values[int(0.99 * (len(values) - 1))], 3)


@pytest.mark.soak
@soak_only("routes/test_database_away.py::test_an_answer_that_ends_while_the_database_is_stopped_is_kept_later")
def test_no_request_notices_what_happens_to_the_database_and_nothing_is_missing_afterwards(
    audited_gateway: MakeAudited, taught: ScriptedUpstream, victim: Postgres, victim_url: str, tmp_path: Path
) -> None:
    gateway, key = audited_gateway({"DATABASE_URL": victim_url}), _insert_key(victim_url)
    phases = _Phases(gateway.worker_pids())
    plans = mixed_plans(_STEADY, 6, leavers=0, numbers=cycle(range(_MODELS)))
    with Load(gateway, plans, clients=_CLIENTS, key=key, every_s=_EVERY_S) as load:
        _wait_until_all_know_the_key(gateway, taught)
        phases.run("before", _sleep(20))
        phases.run("stopped", victim.stop, _sleep(15), victim.start)
        phases.run("killed", victim.kill, _sleep(1), victim.start)
        phases.run("frozen", victim.pause, _sleep(60), victim.resume)
        restart = [victim.stop, _sleep(0.3), victim.start, _sleep(0.5)]
        phases.run("restarted", *restart * 10)
    assert [visit for visit in load.visits if not (visit.complete and visit.status == 200)] == []
    integrity = wait_until_settled(gateway, tmp_path, load.visits)
    rows = select_rows(ActivityTables(victim_url))
    p99_s, growth_bytes = phases.p99_s(load.visits), phases.growth_bytes()
    print("database:", len(load.visits), "requests,", len(rows), "rows, p99 in s:", p99_s, "growth:", growth_bytes)
    assert {(str(row["request_id"]), row["outcome"]) for row in rows} == {(v.request_id, "ok") for v in load.visits}
    assert len(rows) == len(load.visits) == count_by_model(taught.requests).total() == integrity["started"]
    check_statistics(gateway, rows)
    assert max(growth_bytes.values()) < _MOST_GROWTH_BYTES
    assert max(p99_s.values()) < p99_s["before"] + _SLOWER_S


def _sleep(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def _insert_key(url: str) -> str:
    key, engine = new_key(), create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        insert_key(connection, id=key.split("_")[1], name="soak", digest=digest_of(key), last_four=key[-4:])
    return key


def _wait_until_all_know_the_key(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Waits until each worker has served requests of the load, with more connections than its catalog's alone."""

    def busy() -> bool:
        return all(_connections(pid, upstream.port) > 1 for pid in gateway.worker_pids())

    wait_until(busy, 60, "each worker to serve a request")


def _connections(pid: int, port: int) -> int:
    connections: list[Any] = psutil.Process(pid).net_connections("tcp4")
    return sum(bool(one.raddr) and one.raddr.port == port for one in connections)
