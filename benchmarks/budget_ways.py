"""The ways to enforce a budget that budgets.py compares: the gateway's own, and those of other gateways.

The others are written as favourably as possible: they send plain statements on connections that stay open, and they
check the maximum cost of a request, where many gateways check only whether anything is left.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any, Protocol

import gevent
from gevent.queue import Queue
from sqlalchemy import Engine, text

from app.db import Database, create_engine_for
from app.errors import GatewayError
from app.runtime import get_component, get_settings
from app.services.limits import Budget, Ceiling, Charge, Limits, Policy, Subject

# In millionths of a USD.
LIMIT, CEILING = 3_200_000, 1_000
_SYNC_S = 1.0
_UNIT = 10**6  # 10⁻¹² USD in a millionth.
_CONNECTIONS = 8


def make_engine(connections: int = 1) -> Engine:
    """Returns an engine for DATABASE_URL."""
    url = get_settings().database_url
    return create_engine_for(url or sys.exit("DATABASE_URL is not set."), connections)


class Way(Protocol):
    """How a process admits requests; made before the processes are forked, and started in each."""

    def start(self) -> None:
        """Opens connections and starts background work."""

    def admit(self) -> Any:
        """Returns a receipt, or None if the budget has no room."""

    def settle(self, receipt: Any, cost: int) -> None:
        """Notes the cost of a request."""


class Unlimited:
    """Admits everything."""

    def start(self) -> None: ...

    def admit(self) -> Any:
        return True

    def settle(self, receipt: Any, cost: int) -> None: ...


class Leases:
    """The gateway's own."""

    def __init__(self) -> None:
        with make_engine().begin() as connection:
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
            pass  # Opens the worker's connection now, as the other ways do.

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

    def check_sums(self) -> None:
        """Ends the run if the database granted more than the limit."""
        with make_engine().connect() as connection:
            statement = text("SELECT coalesce(max(granted), -1) FROM budget_period WHERE budget_id = :budget")
            granted = connection.execute(statement, {"budget": self.budget}).scalar_one()
        if not 0 <= granted * 10**6 <= LIMIT:
            sys.exit(f"{granted} USD were granted.")


class _Sum:
    """A sum in the database, and plain connections to it."""

    def __init__(self) -> None:
        with make_engine().begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS bench_sum (spent bigint NOT NULL)"))
            connection.execute(text("DELETE FROM bench_sum"))
            connection.execute(text("INSERT INTO bench_sum VALUES (0)"))
        self._free: Any = None

    def start(self) -> None:
        engine = make_engine(_CONNECTIONS)
        self._free = Queue()
        # Referenced here, because the pool reclaims connections that nothing references.
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
    """Counts in the process, and synchronises with the other processes once a second."""

    def start(self) -> None:
        super().start()
        self._known = self._own = 0
        gevent.spawn_later(_SYNC_S * random.random(), self._synchronise)

    def _synchronise(self) -> None:
        while True:
            sent = self._own
            self._known = self.ask("UPDATE bench_sum SET spent = spent + %s RETURNING spent", sent)
            self._own -= sent
            gevent.sleep(_SYNC_S)

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
