"""Migrations are numbered, reversible and safe to run concurrently, and make the tables that the code expects."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from app.db.activity import insert_activity
from app.db.engine import create_engine_for
from app.db.limit_tables import metadata
from app.db.schema import (
    MIGRATIONS,
    SchemaError,
    compare_schema,
    downgrade_schema,
    get_head,
    select_schema_state_of,
    upgrade_schema,
)
from app.dev.postgres import find_binaries
from tests.db.rows import encode, make_row
from tests.support.postgres import Postgres
from tests.support.soak import soak_only

VERSIONS = sorted((MIGRATIONS / "versions").glob("*.py"))


@pytest.fixture
def empty_url(postgres: Postgres) -> Iterator[str]:
    """The address of a database without any table."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


def test_migrations_are_numbered_one_after_the_other_with_one_head() -> None:
    numbers = [path.name[:4] for path in VERSIONS]
    assert numbers == [f"{number:04}" for number in range(1, len(VERSIONS) + 1)]
    script = ScriptDirectory(str(MIGRATIONS))
    assert script.get_heads() == [get_head()] == [numbers[-1]]
    parents = {revision.revision: revision.down_revision for revision in script.walk_revisions()}
    assert parents == dict(zip(numbers, [None, *numbers], strict=False))


@pytest.mark.parametrize("path", VERSIONS, ids=lambda path: path.stem)
def test_a_migration_is_named_after_what_it_does_and_imports_nothing_of_the_app(path: Path) -> None:
    source = path.read_text()
    assert re.fullmatch(r"\d{4}_[a-z_]+", path.stem)
    assert not re.search(r"^\s*(from|import) app\b", source, re.MULTILINE)
    assert "def downgrade" in source


def test_the_migrations_make_the_tables_in_code(database_url: str) -> None:
    assert compare_schema(database_url) == []


def test_daily_partitions_are_not_a_difference(database_url: str) -> None:
    engine = create_engine_for(database_url)
    insert_activity(engine, encode([make_row()]))
    engine.dispose()
    assert compare_schema(database_url) == []


def test_a_column_that_is_missing_is_a_difference(database_url: str) -> None:
    _execute(database_url, "ALTER TABLE activity DROP COLUMN client_retry")
    assert "client_retry" in repr(compare_schema(database_url))


def test_the_migrations_make_every_check_index_and_partition_key_in_code(database_url: str, empty_url: str) -> None:
    engine = create_engine(empty_url, poolclass=NullPool)
    metadata.create_all(engine)
    made, migrated = _dump(empty_url), _dump(database_url)
    # SQLAlchemy's metadata has no functions and no triggers.
    migrated = re.sub(r"CREATE FUNCTION public\.\w+.*?\$\$;\nALTER FUNCTION [^\n]*\n", "", migrated, flags=re.DOTALL)
    migrated = re.sub(r"\nCREATE TRIGGER \w+ [^\n]*", "", migrated)
    assert "PARTITION BY RANGE" in made and "ck_activity_cost_known" in made
    assert made == migrated


def test_a_downgrade_and_an_upgrade_make_the_same_schema_again(database_url: str) -> None:
    before = _dump(database_url)
    for path in reversed(VERSIONS):
        downgrade_schema(database_url, "-1")
        state = select_schema_state_of(database_url)
        assert state.current == (None if path is VERSIONS[0] else f"{int(path.name[:4]) - 1:04}")
    left = _execute(database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert left == [("alembic_version",)]
    upgrade_schema(database_url)
    assert _dump(database_url) == before


@soak_only("db/test_schema.py::test_a_downgrade_and_an_upgrade_make_the_same_schema_again")
def test_concurrent_upgrades_all_succeed_and_migrate_once(empty_url: str) -> None:
    # In separate processes, like concurrent releases, because Alembic has one state per process.
    code = "import sys; from app.db.schema import upgrade_schema; upgrade_schema(sys.argv[1])"
    command = [sys.executable, "-W", "error", "-c", code, empty_url]
    started = [subprocess.Popen(command, cwd=MIGRATIONS.parent, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], errors
    assert select_schema_state_of(empty_url).state == "current"


def test_an_upgrade_gives_up_when_traffic_holds_a_lock(database_url: str) -> None:
    downgrade_schema(database_url, "0001")
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("SELECT * FROM alembic_version FOR UPDATE"))
        connection.execute(text("LOCK TABLE alembic_version IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(SchemaError, match="lock timeout"):
            upgrade_schema(database_url)
    assert select_schema_state_of(database_url).current == "0001"


def test_the_state_of_a_schema_is_reported(empty_url: str) -> None:
    head = get_head()
    assert select_schema_state_of(empty_url) == ("missing", None, head)
    upgrade_schema(empty_url, "0001")
    assert select_schema_state_of(empty_url) == ("behind", "0001", head)
    upgrade_schema(empty_url)
    assert select_schema_state_of(empty_url) == ("current", head, head)
    _execute(empty_url, "UPDATE alembic_version SET version_num = '9999'")
    assert select_schema_state_of(empty_url) == ("ahead", "9999", head)
    _execute(empty_url, "DELETE FROM alembic_version")
    assert select_schema_state_of(empty_url) == ("missing", None, head)


def test_migrating_an_unavailable_database_fails_with_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="The database does not answer: .*No such file") as caught:
        upgrade_schema(f"postgresql+psycopg2://nobody@/nothing?host={tmp_path}")
    assert "Traceback" not in str(caught.value)


def _dump(url: str) -> str:
    """Returns the schema as SQL, without the partitions and without the lines that change from dump to dump."""
    name, _, host = url.rpartition("/")[2].partition("?host=")
    patterns = ["activity_p*", "*_minute", "*_hour", "*_day", "alembic_version"]
    command = [str(find_binaries() / "pg_dump"), "--schema-only", "--username=postgres", f"--host={unquote(host)}"]
    command += [f"--exclude-table={pattern}" for pattern in patterns]
    sql = subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout
    kept = [line for line in sql.splitlines() if line and not re.match(r"--|\\(un)?restrict|SET ", line)]
    # Only the migration sets a fill factor, for partitions and for the one table without partitions.
    return "\n".join(kept).replace("\nWITH (fillfactor='50')", "")


def _execute(url: str, sql: str) -> list[object]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(sql))
        return list(result) if result.returns_rows else []
