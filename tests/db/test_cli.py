"""`bin/gateway db` migrates, and reports the state of the schema in plain sentences and exit codes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from app.cli.db import db_group
from app.config import load_settings
from app.db import get_engine
from app.db.schema import get_head
from app.runtime import use_settings
from tests.support.postgres import Postgres
from tests.support.soak import soak_only


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[None]:
    """Points this process's settings at a database without tables."""
    url = postgres.create_database()
    use_settings(load_settings({"DATABASE_URL": url}))
    yield
    use_settings(None)
    postgres.drop_database(url)


@soak_only("db/test_schema.py::test_a_downgrade_and_an_upgrade_make_the_same_schema_again")
def test_upgrade_from_an_empty_database_and_downgrade(empty_database: None) -> None:
    assert _run("current").exit_code == 1
    assert "missing" in _run("current").output
    assert _run("check").exit_code == 1
    assert f"schema current: migration {get_head()} is in place" in _run("upgrade").output
    assert _run("current").exit_code == _run("check").exit_code == 0
    _set_revision("9999")  # As left by a later version, from which a platform then rolls back to this one.
    for command in ("upgrade", "current"):
        ahead = _run(command)
        assert ahead.exit_code == 0 and ahead.output.startswith("the schema is ahead: migration 9999 is in place")
    _set_revision(get_head())
    assert "schema behind: migration 0001" in _run("downgrade", "0001", "--yes").output
    assert _run("current").exit_code == 1


def test_a_downgrade_asks_first(empty_database: None) -> None:
    assert _run("downgrade", "base").output.startswith("schema missing"), "it looks before it asks"
    _run("upgrade")
    unknown = _run("downgrade", "nowhere")
    assert unknown.exit_code == 1 and "'nowhere'" in unknown.output and "[y/N]" not in unknown.output
    asked = _run("downgrade", f"{int(get_head()) - 2:04}")
    assert asked.exit_code == 1 and f"{get_head()}, {int(get_head()) - 1:04} will be undone," in asked.output
    assert _run("current").exit_code == 0


@pytest.mark.parametrize("command", ["upgrade", "current", "check"])
def test_a_missing_setting_or_database_is_reported_in_one_sentence(command: str) -> None:
    away = "postgresql://nobody@/nothing?host=/nowhere"
    for settings, words in [({}, "DATABASE_URL is not set"), ({"DATABASE_URL": away}, "No such file")]:
        use_settings(load_settings(settings))
        try:
            result = _run(command)
        finally:
            use_settings(None)
        assert result.exit_code == 1
        assert result.output.startswith("Error: ") and words in result.output


def _set_revision(revision: str) -> None:
    with get_engine().begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(db_group, arguments)
