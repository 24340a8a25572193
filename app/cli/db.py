"""`bin/gateway db`: migrates the database, shows the state of its schema, and reconciles the ledger after a restore."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import click

from app.cli.errors import plain_errors
from app.config import SettingsError, get_direct_url
from app.db.schema import (
    SchemaError,
    SchemaState,
    compare_schema,
    downgrade_schema,
    list_downgrade,
    select_schema_state_of,
    upgrade_schema,
)
from app.runtime import get_settings
from app.services.administration import get_command_actor, reconcile_ledger


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
    from app.doctor import check_migration_addresses  # Imported here, because each worker imports the commands.

    with plain_errors():
        findings = list(check_migration_addresses())
        for finding in findings:
            if finding.status == "fail":
                raise SchemaError(finding.text)
        if revision != "head" or select_schema_state_of(_database_url()).state != "ahead":
            upgrade_schema(_database_url(), revision)
        click.echo(_describe(select_schema_state_of(_database_url())))
    for finding in findings:
        click.echo(f"Warning: {finding.text}", err=True)


@db_group.command("downgrade")
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def downgrade_command(revision: str, yes: bool) -> None:
    """Migrate down to REVISION ("base" undoes all migrations)."""
    with plain_errors():
        undone = list_downgrade(_database_url(), revision)
        if undone and not yes:
            what = f"{', '.join(undone)} will be undone, and the tables that they made dropped with their data."
            click.confirm(f"{what} Continue?", abort=True)
        if undone:
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
    """Compare the expected tables with those in the database. Exit code 1 when they differ."""
    with plain_errors():
        differences = compare_schema(_database_url())
    for difference in differences:
        click.echo(repr(difference))
    click.echo(
        f"{len(differences)} differences" if differences else "the database has the tables that the code expects"
    )
    raise SystemExit(1 if differences else 0)


@db_group.command("reconcile-ledger")
@click.option("--close-missing", is_flag=True, help="Missing workers ended after the backup: count what they had left.")
def reconcile_command(close_missing: bool) -> None:
    """Correct the integrity report after a restore.

    After a failover too. It says what was lost. Run it when all gateways have been connected for three minutes: by then
    workers have noticed that the database went back, and have delivered again what their journals still have, and
    those that have ended count as missing. docs/backup.md has the whole procedure.
    """
    with plain_errors():
        result = reconcile_ledger(get_command_actor(), closes_missing=close_missing)
    loss, recounted, uncounted = result.loss, result.recounted, result.uncounted
    for worker in loss.workers:
        requests = f"{worker.requests:,} requests that it was serving or delivering at the time of the backup"
        click.echo(f"Closed the worker {worker.worker_id} of {worker.host or 'an unknown host'}: {requests}.")
    if recounted:
        click.echo(f"Counted anew, with records that the sums lacked: {_list_days(recounted)}.")
    if loss.requests < 0:
        click.echo(f"{-loss.requests:,} requests that counted as lost have their records after all.")
    else:
        kept = " The audit keeps this." if result.has_changes else ""
        click.echo(f"Lost: the records of {loss.requests:,} requests.{kept}")
    click.echo(f"Lost in all restores: {loss.total:,}.")
    if close_missing and result.silent.workers:
        click.echo(
            f"Workers that have been silent for up to {result.silent.longest_s} s: {result.silent.workers}. If they"
            " have ended, they count as missing after three minutes: run this again then.",
            err=True,
        )
    if uncounted:
        click.echo(
            f"Records that are there and that the sums lack: {_list_days(uncounted)}. They count as lost, and"
            " statistics and costs miss them. They were delivered during a restore that was not one transaction, and"
            " cannot be counted anew, because other records of these days are gone, or the days are too old. If the"
            " backup is at hand, restore it again with --single-transaction, and run this again.",
            err=True,
        )


def _list_days(days: Mapping[date, int]) -> str:
    return ", ".join(f"{requests:,} of {day}" for day, requests in days.items())


def _database_url() -> str:
    url = get_direct_url(get_settings())
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
