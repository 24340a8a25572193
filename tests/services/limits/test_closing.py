"""The leases of a dead worker are closed when its journal is adopted, despite interruptions and late statements."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from app.config import load_settings
from app.db import Database
from app.db.leases import LeaseDraw, compute_period_id, draw_leases
from app.runtime import Runtime
from app.services.journal.orphan_adopter import OrphanAdopter
from app.services.limits import get_period
from tests.support.activity_tables import adopt_all, journal_directories
from tests.support.budget_sums import BudgetSums
from tests.support.recording_process import RecordingProcess


def die_in_the_middle(place: Path, url: str, sums: BudgetSums) -> int:
    """Runs a worker that serves some requests, and kills it with others in flight; returns the id of its budget."""
    budget = sums.add_budget("1000000")
    process = RecordingProcess(place, url)
    process.ask("limit", [{"id": "alice", "kind": "holder", "budgets": [budget]}])
    process.ask("spend", 0.3, 4, 1_000, 200, 600, 0.01)
    process.ask("hold_reserved", 5, 1_000)
    process.kill()
    return int(budget[0])


def adopt_once(runtime: Runtime, fail_after: int) -> bool:
    """Adopts until the answer to the statement of this number is lost; returns whether the adoption was complete."""
    count = 0

    def lose_answer(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > fail_after:
            raise OperationalError("the answer was lost", {}, Exception("lost"))

    engine = runtime.get(Database).engine
    event.listen(engine, "after_cursor_execute", lose_answer)
    adopter = OrphanAdopter(runtime, "own")
    try:
        while adopter.deliver_next():
            pass
    except OperationalError:
        return False
    finally:
        event.remove(engine, "after_cursor_execute", lose_answer)
        adopter.close()
    return not journal_directories(runtime.settings.journal_dir.parent)


def test_an_adoption_that_is_interrupted_at_each_statement_leaves_the_same_sums(
    tmp_path: Path, database_url: str, sums: BudgetSums
) -> None:
    budget = die_in_the_middle(tmp_path, database_url, sums)
    (directory,) = journal_directories(tmp_path)
    sums.execute("DELETE FROM worker")  # A worker may draw and be killed before it is registered.
    settings = {"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path / "journal")}
    runtime = Runtime(load_settings(settings))
    attempts = 0
    while not adopt_once(runtime, attempts):
        attempts += 1
        assert attempts < 40
        _draw_late(runtime, directory.name, budget, 1_000 + attempts)
        (period,) = sums.read()
        assert period["granted"] == period["drawn"] <= period["total"]
    assert attempts >= 5
    # A draw of another period, for which the worker has no lease.
    _draw_late(runtime, directory.name, budget, 2_000, later=True)
    runtime.close()
    sums.check_charges()
    (period,) = [period for period in sums.read() if period["granted"]]
    assert period["granted"] == period["drawn"] == period["charged"]
    assert sums.select("SELECT sum(ceiling) FROM budget_charge")[0][0] == 5_000
    assert sums.select("SELECT count(*) FROM budget_lease WHERE NOT closed")[0][0] == 0


def _draw_late(runtime: Runtime, worker_id: str, budget: int, version: int, *, later: bool = False) -> None:
    """Carries out a draw that the dead worker may have sent before it was killed."""
    start, end, _ = get_period("month", "UTC", 1, time.time() + (40 * 86_400 if later else 0))
    assert end is not None
    draw = LeaseDraw(
        budget=budget,
        period=compute_period_id(budget, start),
        start_at=start.isoformat(),
        end_at=end.isoformat(),
        since=None,
        version=version,
        used="30000",
        need="40000",
        firm="40000",
        want="50000",
    )
    draw_leases(runtime.get(Database).lease_engine, worker_id, [draw])


@pytest.mark.parametrize("what", ["another boot", "another boot of an earlier version", "a missing segment"])
def test_where_records_may_be_missing_the_rest_stays_granted(
    tmp_path: Path, database_url: str, sums: BudgetSums, what: str
) -> None:
    budget = die_in_the_middle(tmp_path, database_url, sums)
    (directory,) = journal_directories(tmp_path)
    (before,) = sums.read()
    assert before["granted"] > before["charged"]
    if what == "another boot":
        (directory / "boot").write_text("another")
    elif what == "another boot of an earlier version":
        (directory / "boot").unlink()
        sums.execute("UPDATE worker SET boot_id = 'another'")
    else:
        (segment,) = directory.glob("*.journal")
        segment.rename(segment.with_name(segment.name.replace("1.", "3.")))
    adopt_all(tmp_path, database_url)
    (after,) = sums.read()
    assert after["granted"] == after["drawn"] == before["granted"] > after["charged"]
    log = (tmp_path / "log-adopter").read_text()
    assert '"event":"lease_kept"' in log and f"budgets release {directory.name} --free" in log
    assert sums.select("SELECT kept, period_id >> 32 FROM budget_lease")[0] == (True, budget)
