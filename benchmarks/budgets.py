"""Measures how well a budget is kept: `python -m benchmarks.budgets WAY`, with DATABASE_URL set to a migrated database.

Eight processes with 16 clients each spend one budget. A request may cost up to 1,000 millionths of a USD, costs 200 to
600, and takes 20 ms, so the clients offer at most 6,400 requests a second. WAY is one of:

    leases      the gateway's own, app.services.limits
    check       reads the sum, admits a request if its most fits, and adds its cost once it has ended
    local       counts in each process, and adds that to the sum and reads it once a second
    none        admits everything; shows what the clients themselves cost

Prints a line of JSON. What others do is written here as favourably as it can be: plain statements on connections that
stay open, and a check of the most that a request can cost, where many check only whether anything is left.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

from psycogreen.gevent import patch_psycopg  # noqa: E402

patch_psycopg()

import argparse  # noqa: E402
import json  # noqa: E402
import mmap  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Protocol  # noqa: E402

import gevent  # noqa: E402
from gevent.queue import Queue  # noqa: E402
from sqlalchemy import Engine, text  # noqa: E402

from app.config import load_settings  # noqa: E402
from app.db import Database, create_engine_for  # noqa: E402
from app.errors import GatewayError  # noqa: E402
from app.runtime import get_component, get_settings, use_settings  # noqa: E402
from app.services.limits import Budget, Ceiling, Charge, Limits, Policy, Subject, stop_limits  # noqa: E402
from benchmarks.machine import get_process_tree, get_resource_usage  # noqa: E402

PROCESSES, CLIENTS = 8, 16
# In millionths of a USD.
LIMIT, CEILING, LEAST, MOST = 3_200_000, 1_000, 200, 600
REQUEST_S = 0.02
SYNC_S = 1.0
# A run ends if nothing was admitted for so long, and in any case.
_STALL_S, _LONGEST_S = 2.5, 15.0
_UNIT = 10**6  # 10⁻¹² USD in a millionth.
_CONNECTIONS = 8


def _make_engine(connections: int = 1) -> Engine:
    url = get_settings().database_url
    return create_engine_for(url or sys.exit("DATABASE_URL is not set."), connections)


class Way(Protocol):
    """How a process decides; made before the processes are forked, and started in each."""

    def start(self) -> None:
        """Opens connections and begins what runs beside the requests."""

    def admit(self) -> Any:
        """Returns a receipt, or None if the budget has no room."""

    def settle(self, receipt: Any, cost: int) -> None:
        """Notes what a request has cost."""


class Unlimited:
    """Admits everything."""

    def start(self) -> None: ...

    def admit(self) -> Any:
        return True

    def settle(self, receipt: Any, cost: int) -> None: ...


class Leases:
    """The gateway's own."""

    def __init__(self) -> None:
        with _make_engine().begin() as connection:
            connection.execute(
                text("INSERT INTO subject (id, kind, name) VALUES ('bench', 'holder', 'bench') ON CONFLICT DO NOTHING")
            )
            connection.execute(text("UPDATE budget SET ended_at = now() WHERE ended_at IS NULL"))
            self.budget: int = connection.execute(
                text(
                    "INSERT INTO budget (subject_id, unit, amount, time_window)"
                    " VALUES ('bench', 'usd', :amount, 'total') RETURNING id"
                ),
                {"amount": LIMIT / 1e6},
            ).scalar_one()
        budget = Budget(self.budget, "usd", str(LIMIT / 1e6), "total", "UTC", 1, ())
        subject = Subject("bench", "holder", "bench", None, (), None, None, None, None, (budget,))
        self._policy = Policy(subjects=(subject,), models=(), max_output_tokens=None)
        self._ceilings = [Ceiling(CEILING * _UNIT, 1, 1, lambda cost, tokens: None)]

    def start(self) -> None:
        self._limits = get_component(Limits)
        with get_component(Database).lease_engine.connect():
            pass  # A worker is connected, as the processes of the other ways are.

    def admit(self) -> Any:
        reservation = self._limits.enter(self._policy)
        try:
            reservation.reserve(self._ceilings)
        except GatewayError:
            reservation.release()
            return None
        return reservation

    def settle(self, receipt: Any, cost: int) -> None:
        receipt.settle(Charge(cost * _UNIT, 1, 1, 1))
        receipt.release()

    def check_books(self) -> None:
        """Ends the run if the database granted more than the limit."""
        with _make_engine().connect() as connection:
            statement = text("SELECT coalesce(max(granted), -1) FROM budget_period WHERE budget_id = :budget")
            granted = connection.execute(statement, {"budget": self.budget}).scalar_one()
        if not 0 <= granted * 10**6 <= LIMIT:
            sys.exit(f"{granted} USD were granted.")


class _Sum:
    """A sum in the database, and plain connections to it."""

    def __init__(self) -> None:
        with _make_engine().begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS bench_sum (spent bigint NOT NULL)"))
            connection.execute(text("DELETE FROM bench_sum"))
            connection.execute(text("INSERT INTO bench_sum VALUES (0)"))
        self._free: Any = None

    def start(self) -> None:
        engine = _make_engine(_CONNECTIONS)
        self._free = Queue()
        # Held, because the pool takes back what nothing refers to.
        self._pooled = [engine.raw_connection() for _ in range(_CONNECTIONS)]
        for pooled in self._pooled:
            connection: Any = pooled.driver_connection
            connection.autocommit = True
            self._free.put(connection)

    def ask(self, statement: str, *values: int) -> int:
        """Returns the number that a statement selects."""
        connection = self._free.get()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                found: int = cursor.fetchone()[0]
                return found
        finally:
            self._free.put(connection)


class CheckThenAdd(_Sum):
    """Reads the sum before a request, and adds to it after its end."""

    def admit(self) -> Any:
        return True if self.ask("SELECT spent FROM bench_sum") + CEILING <= LIMIT else None

    def settle(self, receipt: Any, cost: int) -> None:
        self.ask("UPDATE bench_sum SET spent = spent + %s RETURNING spent", cost)


class LocalCounter(_Sum):
    """Counts in the process, and synchronises with the others each second."""

    def start(self) -> None:
        super().start()
        self._known = self._own = 0
        gevent.spawn_later(SYNC_S * random.random(), self._synchronise)

    def _synchronise(self) -> None:
        while True:
            sent = self._own
            self._known = self.ask("UPDATE bench_sum SET spent = spent + %s RETURNING spent", sent)
            self._own -= sent
            gevent.sleep(SYNC_S)

    def admit(self) -> Any:
        return True if self._known + self._own + CEILING <= LIMIT else None

    def settle(self, receipt: Any, cost: int) -> None:
        self._own += cost


WAYS: dict[str, Callable[[], Way]] = {
    "none": Unlimited,
    "leases": Leases,
    "check": CheckThenAdd,
    "local": LocalCounter,
}


class Board:
    """What all processes see: how much each has spent and admitted, who is ready, and when to begin and to stop."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, 8 * (3 * PROCESSES + 2))).cast("q")

    def spend(self, number: int, cost: int) -> None:
        """Notes one request of a process."""
        self._words[number] += cost
        self._words[PROCESSES + number] += 1

    def note_ready(self, number: int) -> None:
        """Notes that a process waits for the start."""
        self._words[2 * PROCESSES + number] = 1

    @property
    def spent(self) -> int:
        """What all have spent."""
        return sum(self._words[:PROCESSES])

    @property
    def admitted(self) -> int:
        """How many requests all have admitted."""
        return sum(self._words[PROCESSES : 2 * PROCESSES])

    @property
    def is_ready(self) -> bool:
        """Whether all wait for the start."""
        return sum(self._words[2 * PROCESSES : 3 * PROCESSES]) == PROCESSES

    @property
    def state(self) -> int:
        """0 before the start, then 1, then 2."""
        return self._words[3 * PROCESSES]

    @state.setter
    def state(self, value: int) -> None:
        self._words[3 * PROCESSES] = value


def run_process(way: Way, board: Board, number: int) -> dict[str, Any]:
    """Spends until the end, and returns the waits (in seconds) and the CPU time up to 80 percent of the limit."""
    chance = random.Random(number)
    way.start()
    waits: list[float] = []
    early: dict[str, float] = {}
    board.note_ready(number)
    while board.state == 0:
        gevent.sleep(0.005)
    began_cpu_s = time.process_time()

    def run() -> None:
        gevent.sleep(REQUEST_S * chance.random())
        while board.state == 1:
            asked_s = time.perf_counter()
            receipt = way.admit()
            if receipt is None:
                gevent.sleep(REQUEST_S)
                continue
            if not early:
                waits.append(time.perf_counter() - asked_s)
                if board.spent >= LIMIT * 0.8:
                    early["cpu_s"] = time.process_time() - began_cpu_s
            gevent.sleep(REQUEST_S)
            cost = chance.randint(LEAST, MOST)
            board.spend(number, cost)
            way.settle(receipt, cost)

    gevent.joinall([gevent.spawn(run) for _ in range(CLIENTS)], raise_error=True)
    if isinstance(way, Leases):
        stop_limits(1.0)
    return {"waits": waits, "cpu_s": early.get("cpu_s", time.process_time() - began_cpu_s)}


def fork_process(way: Way, board: Board, number: int) -> int:
    """Starts a process, and returns the descriptor from which its result can be read."""
    read_end, write_end = os.pipe()
    if os.fork():
        os.close(write_end)
        return read_end
    try:
        result = json.dumps(run_process(way, board, number)).encode()
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(result)
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        os._exit(1)


def watch(board: Board, server: int, *, is_limited: bool) -> dict[str, float]:
    """Lets the processes run until the budget is used up, and returns what was seen of it meanwhile."""
    while not board.is_ready:
        time.sleep(0.005)
    server_s = get_resource_usage(get_process_tree(server)).cpu_s
    began_s = changed_s = time.monotonic()
    board.state = 1
    seen: dict[str, float] = {}
    spent = last_s = 0.0
    while (now_s := time.monotonic()) - changed_s < _STALL_S and now_s - began_s < _LONGEST_S:
        if board.spent > spent:
            spent, changed_s = board.spent, now_s
        if spent >= LIMIT * 0.8 and not seen:
            seen["admitted"], seen["seconds"] = board.admitted, now_s - began_s
            seen["server_cpu_s"] = get_resource_usage(get_process_tree(server)).cpu_s - server_s
        if spent >= LIMIT * 0.99 and not last_s:
            last_s = now_s
        if spent >= LIMIT and not is_limited:
            break
        time.sleep(0.01)
    board.state = 2
    return seen | {"last_percent_s": changed_s - last_s if last_s else float("nan")}


def find_server() -> int:
    """Returns the process id of the database server, which runs on this machine."""
    with _make_engine().connect() as connection:
        directory = connection.execute(text("SHOW data_directory")).scalar_one()
    return int((Path(directory) / "postmaster.pid").read_text().splitlines()[0])


def main() -> None:
    """Runs one way once."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budgets")
    parser.add_argument("way", choices=WAYS)
    name = parser.parse_args().way
    use_settings(load_settings({"DATABASE_URL": os.environ["DATABASE_URL"]}))
    way, board = WAYS[name](), Board()
    pipes = [fork_process(way, board, number) for number in range(PROCESSES)]
    seen = watch(board, find_server(), is_limited=name != "none")
    results = []
    for pipe in pipes:
        with os.fdopen(pipe, "rb") as file:
            results.append(json.loads(file.read() or sys.exit("A process failed; its error is above.")))
    if isinstance(way, Leases):
        way.check_books()
    waits = sorted(wait for result in results for wait in result["waits"])
    over = board.spent - LIMIT
    admitted = seen.get("admitted") or sys.exit("Not even 80 percent of the limit were admitted in time.")
    print(
        json.dumps(
            {
                "over_percent": max(over, 0) / LIMIT * 100,
                "unused_percent": max(-over, 0) / LIMIT * 100,
                "admitted_per_s": admitted / seen["seconds"],
                "wait_p50_ms": statistics.median(waits) * 1000,
                "wait_p99_ms": waits[len(waits) * 99 // 100] * 1000,
                "last_percent_s": seen["last_percent_s"],
                "cpu_us": sum(result["cpu_s"] for result in results) / admitted * 1e6,
                "server_cpu_us": seen["server_cpu_s"] / admitted * 1e6,
            }
        )
    )


if __name__ == "__main__":
    main()
