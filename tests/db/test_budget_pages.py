"""Lists of budgets: the database selects, sums and cuts a page, however many budgets there are."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, event, text

from app.config import load_settings
from app.db import get_engine
from app.db.leases import compute_period_id
from app.runtime import use_settings
from app.services.administration import select_budget_page, select_budget_state
from app.services.limits import get_period

KEYS = 10_000
KINDS = [
    ("day", "UTC", 1),
    ("week", "Europe/Berlin", 3),
    ("month", "America/New_York", 28),
    ("total", "UTC", 1),
    ("rolling:24h", "UTC", 1),
    ("rolling:30d", "Asia/Kathmandu", 1),
]


@pytest.fixture(scope="module")
def engine(file_engine: Engine) -> Iterator[Engine]:
    """A database with budgets of 10,000 keys, each of 100 USD, with charges from 0 to 99 USD by id."""
    use_settings(load_settings({"DATABASE_URL": file_engine.url.render_as_string(hide_password=False)}))
    engine = get_engine()
    with engine.begin() as connection:
        connection.execute(
            text("""INSERT INTO subject (id, kind, name)
                SELECT 'h' || n, 'holder', 'holder ' || n FROM generate_series(1, :keys) AS n"""),
            {"keys": KEYS},
        )
        connection.execute(
            text("""INSERT INTO api_key (id, name, digest, last_four, holder_id)
                SELECT 'k' || n, 'k', sha256(('k' || n)::bytea), 'none', 'h' || n
                FROM generate_series(1, :keys) AS n"""),
            {"keys": KEYS},
        )
        for number, (window, timezone, first_day) in enumerate(KINDS):
            period = get_period(window, timezone, first_day, time.time())
            values = {"window": window, "timezone": timezone, "first_day": first_day, "number": number}
            values |= {"kinds": len(KINDS), "keys": KEYS}
            connection.execute(
                text("""INSERT INTO budget (subject_id, unit, amount, time_window, timezone, first_day)
                    SELECT 'h' || n, 'usd', 100, :window, :timezone, :first_day
                    FROM generate_series(1, :keys) AS n WHERE n % :kinds = :number"""),
                values,
            )
            # The previous period counts only in a rolling window. A charge may arrive before its period has a row.
            for start, share in ((period.start, 1.0), (period.since or period.start, 0.0)):
                minute = compute_period_id(0, start)
                connection.execute(
                    text("""INSERT INTO budget_charge (period_id, worker_id, exact, requests)
                        SELECT (id << 32) + :minute, 'w', (id % 100) * CAST(:share AS numeric), 1 FROM budget
                        WHERE time_window = :window ON CONFLICT DO NOTHING"""),
                    values | {"minute": minute, "share": share},
                )
        connection.execute(
            text("""INSERT INTO budget_period (id, budget_id, start_at, granted, extra)
                SELECT period_id, period_id >> 32, to_timestamp((period_id & 4294967295) * 60), 40,
                    CASE WHEN (period_id >> 32) % 2 = 0 THEN 100 ELSE 0 END
                FROM budget_charge WHERE (period_id >> 32) % 3 = 0 AND exact > 0""")
        )
        connection.execute(text("UPDATE budget SET ended_at = now() WHERE id % 100 = 99 AND id % 7 = 0"))
    yield engine
    use_settings(None)


def test_budgets_above_a_share_are_found_by_a_statement(engine: Engine) -> None:
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    found, cursor, pages = [], None, 0
    while True:
        statements.clear()
        page = select_budget_page(above=80, cursor=cursor, limit=700)
        # One statement each for the time, the kinds of budgets, and the page, however many budgets there are.
        assert len(statements) == 3, statements
        found += page.data
        cursor, pages = page.next_cursor, pages + 1
        if not page.has_more:
            break
    with engine.connect() as connection:
        expected = connection.execute(
            text("""SELECT id FROM budget WHERE ended_at IS NULL AND id % 100 >= 80
                AND NOT (id % 6 = 0) ORDER BY id""")
        ).scalars()
        assert [state.id for state in found] == list(expected) and pages > 1
    for state in found[:: len(found) // 12]:
        assert state == select_budget_state(state.id)
    assert {state.window for state in found} == {kind[0] for kind in KINDS}
    first = select_budget_page(above=None, cursor=None, limit=12)
    assert [state.id for state in first.data] == list(range(1, 13)) and first.has_more
    assert first.data == [select_budget_state(state.id) for state in first.data]
    assert len(select_budget_page(above=0, cursor=None, limit=None).data) == KEYS - len(range(99, KEYS, 100)[6::7])
