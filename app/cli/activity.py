"""`flask activity`: exports what was recorded, drops what is old, and shows statistics."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from app.cli.failures import plain_errors
from app.cli.tables import format_stats
from app.db.activity import ActivityFilter
from app.db.tables import OUTCOMES
from app.services.providers import PROVIDERS
from app.services.reports.csv_export import encode_csv
from app.services.reports.records import stream_pages
from app.services.reports.retention import drop_days, get_droppable_days, retention_end
from app.services.reports.stats import ALL_GATEWAYS, TIME_RANGES, get_stats

# How often an export says how far it is, in seconds.
PROGRESS_EVERY_S = 2.0
# Where nobody watches, in a log for instance, once in a while is enough.
_UNWATCHED_EVERY_S = 30.0

_DAY = click.DateTime(["%Y-%m-%d"])
_TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"])


@click.group("activity")
def activity_group() -> None:
    """Export the records of requests, drop old ones, or see statistics."""


@activity_group.command("export")
@click.option("--from", "start", type=_TIME, help="The earliest start of a request (UTC), included.")
@click.option("--to", "end", type=_TIME, help="The latest (UTC), not included.")
@click.option("--model", help="The whole name of the model.")
@click.option("--gateway", type=click.Choice(list(PROVIDERS)))
@click.option("--key", "key_id", help="The id of a key, as `flask keys list` shows it; env for GATEWAY_API_KEY.")
@click.option("--outcome", type=click.Choice(OUTCOMES))
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; standard output when left out."
)
def export_command(start: datetime | None, end: datetime | None, output: Path | None, **chosen: str | None) -> None:
    """Write records as CSV, newest first."""
    wanted = ActivityFilter(start=_utc(start), end=_utc(end), **chosen)
    with plain_errors(), _destination(output) as file:
        for piece in encode_csv(_watched(stream_pages(wanted))):
            file.write(piece)


def _utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


@contextmanager
def _destination(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    # What stands under the name is always a whole export.
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(output)
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _watched(pages: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Says on standard error how far the export is; how much there is in all would take as long to find out."""
    watched = sys.stderr.isatty()
    rows, told_s, ending = 0, time.monotonic(), "\r" if watched else "\n"
    for page in pages:
        yield page
        rows += len(page)
        if time.monotonic() - told_s >= (PROGRESS_EVERY_S if watched else _UNWATCHED_EVERY_S):
            told_s = time.monotonic()
            click.echo(f"{rows:,} records, back to {page[-1]['started_at']:%Y-%m-%d %H:%M}{ending}", nl=False, err=True)
    # The spaces cover what the last line left on a terminal.
    click.echo(f"{rows:,} records exported.{' ' * 30 if watched else ''}", err=True)


@activity_group.command("purge")
@click.option("--before", type=_DAY, help="The first day (UTC) that stays; by default what RETENTION_DAYS says.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge_command(before: datetime | None, yes: bool) -> None:
    """Drop the records of old days. Statistics and totals stay as they are."""
    today = datetime.now(UTC).date()
    first_kept = retention_end(today) if before is None else before.date()
    if first_kept > today:
        raise click.ClickException("The day that is under way cannot be dropped; the latest --before is today.")
    with plain_errors():
        days = get_droppable_days(first_kept)
        if days and not yes:
            click.confirm(f"{len(days)} days of records ({days[0]} to {days[-1]}) will be gone. Go on?", abort=True)
        _drop(days, first_kept)


def _drop(days: list[date], first_kept: date) -> None:
    with click.progressbar(length=len(days), label="Dropping", file=sys.stderr) as bar:
        dropped = []
        for day in drop_days(first_kept):
            dropped.append(day)
            bar.update(1)
    click.echo(f"{len(dropped)} days dropped; records from {first_kept} on are kept.")


@activity_group.command("stats")
@click.option("--gateway", type=click.Choice([*PROVIDERS, ALL_GATEWAYS]), default=ALL_GATEWAYS, show_default=True)
@click.option("--time-range", type=click.Choice(list(TIME_RANGES)), default="24h", show_default=True)
def stats_command(gateway: str, time_range: str) -> None:
    """Show statistics as tables."""
    with plain_errors():
        stats = get_stats(gateway, time_range, datetime.now(UTC))
    click.echo(format_stats(stats))
