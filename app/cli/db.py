"""`bin/gateway db`: migrates the database and shows the state of its schema."""

from __future__ import annotations

import click

from app.cli.errors import plain_errors
from app.config import SettingsError
from app.db.schema import (
    SchemaState,
    compare_schema,
    downgrade_schema,
    select_schema_state_of,
    upgrade_schema,
)
from app.runtime import get_settings


@click.group("db")
def db_group() -> None:
    """Migrate the database, or show the state of its schema."""


@db_group.command("upgrade")
@click.argument("revision", default="head")
def upgrade_command(revision: str) -> None:
    """Migrate up to REVISION, by default the newest. Concurrent runs are safe.

    If later code has migrated the database further, there is nothing to do: every migration works with the code before
    it, so that a rollback is possible.
    """
    with plain_errors():
        if revision != "head" or select_schema_state_of(_database_url()).state != "ahead":
            upgrade_schema(_database_url(), revision)
        click.echo(_describe(select_schema_state_of(_database_url())))


@db_group.command("downgrade")
@click.argument("revision")
@click.confirmation_option(prompt="Tables made by later migrations are dropped with their data. Continue?")
def downgrade_command(revision: str) -> None:
    """Migrate down to REVISION ("base" undoes all migrations)."""
    with plain_errors():
        downgrade_schema(_database_url(), revision)
        click.echo(_describe(select_schema_state_of(_database_url())))


@db_group.command("current")
def current_command() -> None:
    """Show which migration is in place. Exit code 1 when `bin/gateway db upgrade` is needed."""
    with plain_errors():
        state = select_schema_state_of(_database_url())
    click.echo(_describe(state))
    raise SystemExit(0 if state.state in {"current", "ahead"} else 1)


@db_group.command("check")
def check_command() -> None:
    """Compare the tables that the code expects with those in the database. Exit code 1 when they differ."""
    with plain_errors():
        differences = compare_schema(_database_url())
    for difference in differences:
        click.echo(repr(difference))
    click.echo(
        f"{len(differences)} differences" if differences else "the database has the tables that the code expects"
    )
    raise SystemExit(1 if differences else 0)


def _database_url() -> str:
    url = get_settings().database_url
    if url is None:
        raise SettingsError("DATABASE_URL is not set. Set it to the address of a PostgreSQL, or start `make run`.")
    return url


def _describe(state: SchemaState) -> str:
    if state.state == "ahead":
        return (
            f"the schema is ahead: migration {state.current} is in place, and the newest one of this code is"
            f" {state.head}. There is nothing to do, because every migration works with the code before it."
        )
    in_place = f"migration {state.current} is in place" if state.current else "no migration is in place"
    return f"schema {state.state}: {in_place}; the newest one of this code is {state.head}"
