"""Watches the sums of budgets while processes draw from them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

# At every instant, the granted sum must equal the sum of the leases.
_SUMS = text("""
    SELECT budget_period.id, budget_id, amount + extra AS total, granted,
        (SELECT coalesce(sum(drawn), 0) FROM budget_lease WHERE period_id = budget_period.id) AS drawn,
        (SELECT coalesce(sum(exact + estimated + ceiling), 0) FROM budget_charge WHERE period_id = budget_period.id)
            AS charged
    FROM budget_period JOIN budget ON budget.id = budget_id ORDER BY budget_period.id""")


class BudgetSums:
    """The sums of the budgets of one database.

    Attributes:
        looks: the number of checks by `watching`.
        mistakes: the mistakes that it found.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, poolclass=NullPool)
        self.looks = 0
        self.mistakes: list[dict[str, Any]] = []

    def add_budget(self, amount: str, unit: str = "tokens", window: str = "month", subject: str = "alice") -> list[Any]:
        """Adds a budget and returns its terms for `limit`."""
        with self._engine.begin() as connection:
            connection.execute(
                text("INSERT INTO subject (id, kind, name) VALUES (:id, 'holder', :id) ON CONFLICT DO NOTHING"),
                {"id": subject},
            )
            found = connection.execute(
                text(
                    "INSERT INTO budget (subject_id, unit, amount, time_window)"
                    " VALUES (:subject, :unit, :amount, :window) RETURNING id"
                ),
                {"subject": subject, "unit": unit, "amount": amount, "window": window},
            ).scalar_one()
        return [found, unit, amount, window]

    def read(self) -> list[dict[str, Any]]:
        """Returns each period with its amount and its granted, drawn and charged sums."""
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(_SUMS).mappings()]

    def select(self, sql: str) -> list[Any]:
        """Returns the rows of a query."""
        with self._engine.connect() as connection:
            return list(connection.execute(text(sql)))

    def execute(self, sql: str) -> None:
        """Runs a statement and commits it."""
        with self._engine.begin() as connection:
            connection.execute(text(sql))

    @contextmanager
    def watching(self, over: int = 0) -> Iterator[None]:
        """Checks the sums every 10 ms during the block: no more than the amount and `over` may be granted.

        It tolerates a database that is away.
        """
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended, over), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
        assert self.looks > 5 and self.mistakes == [], self.mistakes[:3]

    def _watch(self, ended: threading.Event, over: int) -> None:
        while not ended.wait(0.01):
            try:
                with self._engine.connect() as connection:
                    while not ended.wait(0.01):
                        for row in connection.execute(_SUMS).mappings():
                            if row["granted"] != row["drawn"] or row["granted"] > row["total"] + over:
                                self.mistakes.append(dict(row))
                        connection.rollback()
                        self.looks += 1
            except OperationalError:
                continue

    def check_charges(self) -> None:
        """Fails unless the charges of each period equal those of the records, in the unit of its budget."""
        mistakes = self.select("""
            SELECT period_id, charged, recorded FROM (
                SELECT period_id, sum(exact + estimated + ceiling) AS charged FROM budget_charge GROUP BY 1) AS charges
            FULL JOIN (
                SELECT period AS period_id, sum(CASE unit WHEN 'usd' THEN charged_usd
                    WHEN 'tokens' THEN charged_tokens ELSE 1 END) AS recorded
                FROM activity CROSS JOIN unnest(budget_periods) AS period JOIN budget ON budget.id = period >> 32
                GROUP BY 1) AS records USING (period_id)
            WHERE charged IS DISTINCT FROM recorded""")
        assert mistakes == []
