"""Reads the records and the ledger of a database, for tests that compare them with the actions of processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from app.db.ledger import select_integrity
from tests.support.recording_process import RecordingProcess
from tests.support.waiting import wait_until


class ActivityTables:
    """The tables of one database. Each call opens a connection, so that the server may be restarted in between."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": 10})

    def select(self, sql: str) -> list[Any]:
        """Returns the rows of a query."""
        with self._engine.connect() as connection:
            return list(connection.execute(text(sql)))

    def execute(self, sql: str) -> None:
        """Runs a statement and commits it."""
        with self._engine.begin() as connection:
            connection.execute(text(sql))

    def outcomes(self) -> dict[str, str]:
        """Returns request id → outcome. Fails if a request has several rows."""
        rows = self.select("SELECT CAST(request_id AS text), outcome FROM activity")
        twice = [one for one, count in Counter(row[0] for row in rows).items() if count > 1]
        assert not twice, f"{len(twice)} requests have several rows"
        return {row[0]: row[1] for row in rows}

    def integrity(self) -> tuple[dict[str, int], dict[str, int]]:
        """Returns the ledger's sums and the rows by outcome, from one snapshot."""
        with self._engine.connect() as connection:
            return select_integrity(connection)

    def check_balance(self) -> dict[str, int]:
        """Returns the ledger's sums. Fails unless the started requests equal the sum of all others and the rows."""
        ledger, outcomes = self.integrity()
        parts = {name: count for name, count in ledger.items() if name != "started"}
        assert ledger["started"] == sum(parts.values()) + sum(outcomes.values()), (ledger, outcomes)
        return ledger


def journal_directories(place: Path) -> list[Path]:
    """Returns the workers' directories in `place`/journal, without those kept after their delivery."""
    root = place / "journal"
    return [path for path in root.iterdir() if path.is_dir() and path.name != "delivered"] if root.exists() else []


def wait_until_adopted(directories: Iterable[Path]) -> None:
    """Waits until live workers have adopted, and so removed, these directories of dead workers.

    Counting the remaining directories would not work, because a live worker may not have made its own yet.
    """
    dead = list(directories)
    wait_until(lambda: not any(directory.exists() for directory in dead), what=f"the adoption of {len(dead)} journals")


def wait_until_shipped(process: RecordingProcess, timeout_s: float = 60) -> None:
    """Waits until every row that the process has recorded is in the database."""
    wait_until(lambda: process.ask("status")["backlog_rows"] == 0, timeout_s, "the journal to be shipped")


def adopt_all(place: Path, url: str) -> None:
    """Starts a worker that adopts all journals in `place`, and waits until it has adopted them."""
    dead = journal_directories(place)
    with RecordingProcess(place, url, name="adopter") as process:
        process.ask("start")
        try:
            wait_until_adopted(dead)
        except AssertionError as error:
            stacks = "\n".join(process.ask("stacks"))
            raise AssertionError(f"{error}\n{process.log_file.read_text()}\n{stacks}") from None
        assert process.ask("stop", 20) is True
    assert journal_directories(place) == []


def check_against_provider(tables: ActivityTables, processes: list[RecordingProcess], streams: int) -> None:
    """Compares the rows with the requests that the provider counted and those that were refused.

    Args:
        tables: the tables of the database, after everything was shipped or adopted.
        processes: all processes that recorded requests.
        streams: the maximum number of requests that each of them had in flight when it ended.
    """
    outcomes = tables.outcomes()
    counted = set().union(*(process.counted() for process in processes))
    refused = set().union(*(process.refused() for process in processes))
    assert counted | refused <= set(outcomes)
    # A process can die after it wrote a record and before it noted the id for the test.
    assert len(outcomes) - len(counted | refused) <= len(processes)
    assert sum(outcome == "lost" for outcome in outcomes.values()) <= streams * len(processes)
    assert {one for one, outcome in outcomes.items() if outcome == "rejected"} >= refused
    ledger = tables.check_balance()
    assert (ledger["in_flight"], ledger["unshipped"], ledger["unrecorded"], ledger["rejected"]) == (0, 0, 0, 0)
