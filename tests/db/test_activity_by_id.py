"""Records are found by any of their ids through an index, and the migration of a full table makes the indexes too."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, text

from app.db.activity_by_id import select_activity_by_foreign_id, select_activity_by_request_id
from app.db.engine import create_engine_for
from app.db.schema import downgrade_schema, upgrade_schema
from app.db.tables import activity
from tests.db.rows import NOON, Row, insert_rows, make_row

DAYS, ROWS_PER_DAY = 4, 300

# A caller may send any id. The time in this one is later than the last date of Python.
_AFTER_ALL_DATES = UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")


def make_request_id(number: int) -> str:
    """Returns the id that the gateway would make for a request that began `number` minutes after NOON."""
    milliseconds = int((NOON + timedelta(minutes=number)).timestamp() * 1000)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | number))


@pytest.fixture
def rows(engine: Engine) -> list[Row]:
    """Inserts records of some days, and returns them oldest first."""
    rows = [
        make_row(
            after_s=number * 60,
            request_id=make_request_id(number),
            upstream_request_id=f"theirs-{number}",
            client_request_id=f"mine-{number % 400}" if number % 2 else None,
        )
        for number in range(0, DAYS * 24 * 60, 24 * 60 // ROWS_PER_DAY)
    ]
    insert_rows(engine, rows)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE activity"))
    return rows


def test_the_gateways_own_id_is_searched_in_two_seconds_of_one_day(engine: Engine, rows: list[Row]) -> None:
    wanted = rows[len(rows) // 2]
    with engine.connect() as connection, Remembering(connection) as statements:
        found = select_activity_by_request_id(connection, UUID(wanted["request_id"]), None)
        assert [row["started_at"] for row in found] == [wanted["started_at"]]
        assert select_activity_by_request_id(connection, UUID(wanted["request_id"]), "another key") == []
        assert select_activity_by_request_id(connection, _AFTER_ALL_DATES, None) == []
        plan = _explain(connection, statements[0])
    assert "Seq Scan" not in plan and plan.count("Index Scan") == 1


@pytest.mark.parametrize(("column", "value"), [("upstream_request_id", "theirs-1204"), ("client_request_id", "mine-1")])
def test_another_id_is_looked_up_in_the_index_of_each_day(
    engine: Engine, rows: list[Row], column: str, value: str
) -> None:
    wanted = [row["request_id"] for row in rows if row[column] == value][::-1]
    with engine.connect() as connection, Remembering(connection) as statements:
        found = select_activity_by_foreign_id(connection, column, value, None, 21)
        assert [str(row["request_id"]) for row in found] == wanted[:21]
        plan = _explain(connection, statements[0])
    assert f"{column}_started_at_idx" in plan and "Seq Scan" not in plan


def test_a_table_that_has_days_already_gets_the_columns_and_the_indexes(database_url: str) -> None:
    downgrade_schema(database_url, "0004")
    engine = create_engine_for(database_url)
    before = [column.name for column in activity.columns][:-4]
    row = make_row(upstream_request_id="theirs") | {"attempts": "[]"}
    names = [name for name in row if name in before]
    # The insert statement of a worker of the earlier version, run before and after the migration.
    insert = text(f"INSERT INTO activity ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE activity_p20260314 (LIKE activity INCLUDING ALL)"))
        bounds = "FROM ('2026-03-14 00:00+00') TO ('2026-03-15 00:00+00')"
        connection.execute(text(f"ALTER TABLE activity ATTACH PARTITION activity_p20260314 FOR VALUES {bounds}"))
        connection.execute(insert, row)
    upgrade_schema(database_url)
    with engine.begin() as connection:
        later = make_row(upstream_request_id="theirs", after_s=1) | {"attempts": "[]"}
        connection.execute(insert, later)
        found = select_activity_by_foreign_id(connection, "upstream_request_id", "theirs", None, 5)
        assert [one["request_id"] for one in found] == [later["request_id"], row["request_id"]]
        assert {one["repaired"] for one in found} == {None}
        valid = connection.execute(
            text(
                "SELECT bool_and(indisvalid), count(*) FROM pg_index i JOIN pg_class c "
                "ON c.oid = i.indexrelid WHERE c.relname LIKE '%request_id_started_at%'"
            )
        )
        assert valid.one() == (True, 4)
    engine.dispose()


def _explain(connection: Any, statement: tuple[str, Any]) -> str:
    connection.exec_driver_sql("SET enable_seqscan = off")
    return "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement[0]}", statement[1]).scalars())


class Remembering:
    """Collects the statements of a connection while a `with` block runs."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._statements: list[tuple[str, Any]] = []

    def __enter__(self) -> list[tuple[str, Any]]:
        event.listen(self._connection, "before_cursor_execute", self._remember)
        return self._statements

    def __exit__(self, *_: object) -> None:
        event.remove(self._connection, "before_cursor_execute", self._remember)

    def _remember(self, _connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        self._statements.append((statement, parameters))
