"""Measures how exactly a budget is kept: `python -m benchmarks.budgets WAY`, DATABASE_URL being a migrated database.

Eight processes with 16 clients each spend one budget. A request may cost up to 1,000 millionths of a USD, costs 200 to
600, and takes 20 ms, so the clients offer at most 6,400 requests a second. WAY is one of:

    leases      the gateway's own, app.services.limits
    check       reads the sum, admits a request if its maximum cost fits, and adds its cost once it has ended
    local       counts in each process; once a second, adds the count to the sum and reads the sum
    none        admits everything; shows the cost of the clients themselves

The ways are in budget_ways.py. The output is a line of JSON.
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
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from sqlalchemy import text  # noqa: E402

from app.config import load_settings  # noqa: E402
from app.runtime import use_settings  # noqa: E402
from app.services.limits import stop_limits  # noqa: E402
from benchmarks.budget_ways import LIMIT, WAYS, Leases, Way, make_engine  # noqa: E402
from benchmarks.machine import get_process_tree, get_resource_usage  # noqa: E402

PROCESSES, CLIENTS = 8, 16
# Least and greatest cost of a request, in millionths of a USD.
LEAST, MOST = 200, 600
REQUEST_S = 0.02
# A run ends when nothing was admitted for _STALL_S, and after _LONGEST_S in any case.
_STALL_S, _LONGEST_S = 2.5, 15.0


class Board:
    """Memory shared by all processes: how much each has spent and admitted, who is ready, and the state of the run."""

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
        """The amount that all processes have spent."""
        return sum(self._words[:PROCESSES])

    @property
    def admitted(self) -> int:
        """The number of requests that all processes have admitted."""
        return sum(self._words[PROCESSES : 2 * PROCESSES])

    @property
    def is_ready(self) -> bool:
        """Whether all processes wait for the start."""
        return sum(self._words[2 * PROCESSES : 3 * PROCESSES]) == PROCESSES

    @property
    def state(self) -> int:
        """0 before the start, 1 while running, 2 at the end."""
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
    """Lets the processes run until the budget is used up, and returns what was measured meanwhile."""
    deadline_s = time.monotonic() + _LONGEST_S
    while not board.is_ready:
        if time.monotonic() > deadline_s:
            board.state = 2  # Ends the other processes too.
            sys.exit("A process did not begin; its error is above.")
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
    with make_engine().connect() as connection:
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
        way.check_sums()
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
