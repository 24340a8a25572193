"""The commands for the leases that workers have drawn from budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from sqlalchemy import text

from app import create_app
from app.config import load_settings
from app.db import get_engine
from app.db.leases import draw_leases
from app.db.workers import Registration, upsert_seen
from app.runtime import use_settings
from app.services.administration import AuditFilter, select_audit_page
from app.services.journal import make_request_id
from tests.db.budgets import add_budget, charge, make_draw, read_sums
from tests.support.gateway import base_settings

Run = Callable[..., Result]


@pytest.fixture
def run(database_url: str, tmp_path: Path) -> Iterator[Run]:
    """A function that runs a command of `bin/gateway budgets`, on a fresh database."""
    runner = create_app(load_settings(base_settings(tmp_path, database_url))).test_cli_runner()
    yield lambda *arguments: runner.invoke(args=["budgets", *arguments])
    use_settings(None)


def test_what_a_lost_worker_had_drawn_is_listed_and_released(run: Run) -> None:
    engine = get_engine()
    budget = add_budget(engine, "1000")
    registration = Registration(worker_id="a" * 32, host="far", boot_id="", pid=1, version="", journal_dir="/journal")
    upsert_seen(engine, registration, 0)
    draw_leases(engine, "a" * 32, [make_draw(budget, 1, 400)])
    charge(engine, budget, "a" * 32, 100)
    listed = run("leases").output.split("\n")
    assert listed[1].split()[:3] == ["a" * 32, "live", "far"] and listed[1].endswith("300 tokens")
    refused = run("release", "a" * 32, "--free")
    assert refused.exit_code == 1 and "lives" in refused.output
    assert run("release", "a" * 32).exit_code == 2
    with engine.begin() as connection:
        connection.execute(text("UPDATE worker SET last_seen_at = now() - interval '1 day'"))
    assert run("release", "a" * 32, "--charge").output.endswith("counted as spent: 300 tokens.\n")
    assert " unaccounted " in run("leases").output
    assert run("check").output == "Leases, charges and budgets agree.\n"
    assert run("release", "a" * 32, "--free").output.endswith("no rest.\n")
    with engine.connect() as connection:
        assert [int(period["granted"]) for period in read_sums(connection)] == [100]
    assert run("release", "b" * 32, "--free").exit_code == 1
    events = select_audit_page(AuditFilter(), None, 10).data
    assert [(event.action, event.object) for event in events] == [
        ("lease.free", f"worker:{'a' * 32}"),
        ("lease.charge", f"worker:{'a' * 32}"),
    ]


def test_sums_that_do_not_agree_are_named(run: Run) -> None:
    engine = get_engine()
    budget = add_budget(engine, "1000")
    draw_leases(engine, "a", [make_draw(budget, 1, 400)])
    with engine.begin() as connection:
        connection.execute(text("UPDATE budget_period SET granted = 500"))
    done = run("check")
    assert done.exit_code == 1 and f"Budget {budget}," in done.output and "500 are granted" in done.output


def test_only_a_request_that_was_charged_to_a_budget_can_be_forgiven(run: Run) -> None:
    done = run("forgive", make_request_id())
    assert done.exit_code == 1 and "No request" in done.output
    assert run("forgive", "x").exit_code == 2
