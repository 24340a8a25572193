"""`bin/gateway activity`: exports records, drops old ones, writes lost ones off, shows statistics or one request."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click

from app.cli.errors import make_output_error, plain_errors
from app.cli.tables import format_stats, format_story
from app.cli.times import TIME
from app.config import ALL_GATEWAYS
from app.errors import NotFound
from app.services.administration import get_command_actor, select_key_ids, write_off_worker
from app.services.endpoints import ENDPOINTS
from app.services.keys import raise_if_no_key
from app.services.providers import PROVIDERS
from app.services.reports import (
    DEFAULT_TIME_RANGE,
    OUTCOMES,
    SPLITS,
    STATUS_PATTERN,
    TIME_RANGES,
    ActivityFilter,
    AskedWindow,
    Owned,
    drop_days,
    encode_csv,
    select_droppable_days,
    select_first_kept_day,
    select_request_story,
    select_stats,
    stream_activity_pages,
)

# Seconds between progress messages: on a terminal, where each overwrites the one before, and in a log, where each is a
# line.
_TERMINAL_PROGRESS_S = 2.0
_LOG_PROGRESS_S = 30.0

_ENDPOINTS = [endpoint.path for endpoint in ENDPOINTS]
_KEY_HELP = "The id of a key, as `bin/gateway keys list` shows it, or env for GATEWAY_API_KEY."

_DAY = click.DateTime(["%Y-%m-%d"])


@click.group("activity")
def activity_group() -> None:
    """Show, export and drop records of requests, and show statistics."""


@activity_group.command("export")
@click.option("--from", "start", type=TIME, help="The earliest start of a request (UTC), included.")
@click.option("--to", "end", type=TIME, help="The latest start of a request (UTC), not included.")
@click.option("--model", help="The full name of the model.")
@click.option("--gateway", type=click.Choice(list(PROVIDERS)))
@click.option("--endpoint", type=click.Choice(_ENDPOINTS))
@click.option("--key", "key_id", help=_KEY_HELP)
@click.option("--outcome", "outcomes", type=click.Choice(OUTCOMES), multiple=True, help="May be repeated.")
@click.option("--status", "statuses", multiple=True, help="Such as 429 or 5xx; may be repeated.")
@click.option("--error-type", help="The type of the error.")
@click.option("--stream/--no-stream", default=None, help="Whether a stream was requested.")
@click.option("--min-duration-ms", type=click.FloatRange(min=0))
@click.option("--max-duration-ms", type=click.FloatRange(min=0))
@click.option("--min-cost-usd", type=click.FloatRange(min=0))
@click.option("--max-cost-usd", type=click.FloatRange(min=0))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; standard output by default.")
def export_command(
    start: datetime | None,
    end: datetime | None,
    output: Path | None,
    outcomes: tuple[str, ...],
    statuses: tuple[str, ...],
    **chosen: Any,
) -> None:
    """Write records as CSV, newest first."""
    if not all(re.match(STATUS_PATTERN, status) for status in statuses):
        raise click.UsageError("--status must be a status such as 429, or a class of them such as 5xx.")
    records = ActivityFilter(
        start=_set_utc(start), end=_set_utc(end), outcomes=outcomes or None, statuses=statuses or None, **chosen
    )
    _raise_if_no_key(records.key_id)
    with plain_errors(), _open_output(output) as file:
        for piece in encode_csv(_report_progress(stream_activity_pages(records))):
            file.write(piece)


def _raise_if_no_key(key_id: str | None) -> None:
    if key_id is None:
        return
    with plain_errors():
        try:
            raise_if_no_key(key_id)
        except NotFound as error:
            raise click.ClickException(error.message) from error


def _set_utc(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)


@contextmanager
def _open_output(output: Path | None) -> Iterator[BinaryIO]:
    if output is None:
        yield sys.stdout.buffer
        return
    # The file is renamed when it is complete, so a file with the given name is never half an export.
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(output)
    except OSError as error:
        raise make_output_error(output, error) from error
    finally:
        unfinished.unlink(missing_ok=True)


def _report_progress(pages: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Yields the pages, and writes the number of rows so far to standard error.

    Shows no percentage, because counting all rows would take as long as exporting them.
    """
    on_terminal = sys.stderr.isatty()
    pause_s, ending = (_TERMINAL_PROGRESS_S, "\r") if on_terminal else (_LOG_PROGRESS_S, "\n")
    rows, reported_s = 0, time.monotonic()
    for page in pages:
        yield page
        rows += len(page)
        if time.monotonic() - reported_s >= pause_s:
            reported_s = time.monotonic()
            click.echo(f"{rows:,} records, back to {page[-1]['started_at']:%Y-%m-%d %H:%M}{ending}", nl=False, err=True)
    # The spaces overwrite the rest of the last progress message on a terminal.
    click.echo(f"{rows:,} records exported.{' ' * 30 if on_terminal else ''}", err=True)


@activity_group.command("purge")
@click.option("--before", type=_DAY, help="The first day (UTC) to keep; by default RETENTION_DAYS decides.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def purge_command(before: datetime | None, yes: bool) -> None:
    """Drop the records of old days. Statistics and totals do not change."""
    with plain_errors():
        try:
            first_kept = select_first_kept_day(None if before is None else before.date())
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        days = select_droppable_days(first_kept)
        if days and not yes:
            click.confirm(
                f"{len(days)} days of records ({days[0]} to {days[-1]}) will be dropped. Continue?", abort=True
            )
        _drop(days, first_kept)


def _drop(days: list[date], first_kept: date) -> None:
    with click.progressbar(length=len(days), label="Dropping", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        dropped = []
        for day in drop_days(first_kept):
            dropped.append(day)
            bar.update(1)
    click.echo(f"{len(dropped)} days dropped; records from {first_kept} on are kept.")


@activity_group.command("stats")
@click.option("--gateway", type=click.Choice([*PROVIDERS, ALL_GATEWAYS]), default=ALL_GATEWAYS, show_default=True)
@click.option("--time-range", type=click.Choice(list(TIME_RANGES)), default=DEFAULT_TIME_RANGE, show_default=True)
@click.option("--from", "start", type=TIME, help="The start of another window (UTC), included.")
@click.option("--to", "end", type=TIME, help="Its end (UTC), not included; by default now.")
@click.option("--endpoint", type=click.Choice(_ENDPOINTS))
@click.option("--key", "key_id", help=_KEY_HELP)
@click.option("--model", help="The full name of the model that served the requests, of all keys; not with --key.")
@click.option("--holder", help="The name or id of a holder, whose keys' requests to count.")
@click.option("--group", help="The name or id of a group, whose holders' requests to count.")
@click.option("--split", "split_by", type=click.Choice(SPLITS), help="Show who used how much, the most costly first.")
def stats_command(
    gateway: str,
    time_range: str,
    start: datetime | None,
    end: datetime | None,
    endpoint: str | None,
    key_id: str | None,
    model: str | None,
    holder: str | None,
    group: str | None,
    split_by: Any,
) -> None:
    """Show statistics as tables. They are of all requests, or of one key, holder, group or model."""
    if model == "":
        raise click.UsageError("--model is empty. Give the full name of a model, as the statistics show it.")
    given = [name for name, value in (("key", key_id), ("model", model), ("holder", holder), ("group", group)) if value]
    if given == ["key", "model"]:
        raise click.UsageError("Statistics of a model cover all keys. Give --key or --model.")
    if len(given) > 1:
        raise click.UsageError(f"--{given[0]} and --{given[1]} exclude each other. Give one of the two.")
    if split_by and (key_id or model):
        raise click.UsageError("--split is for the requests of all keys, of a holder or of a group.")
    _raise_if_no_key(key_id)
    with plain_errors():
        window = AskedWindow(time_range=time_range, start=_set_utc(start), end=_set_utc(end))
        owned = find_owned(holder, group)
        stats = select_stats(
            gateway, window, key_id=key_id, model=model, endpoint=endpoint, owned=owned, split_by=split_by
        )
    click.echo(format_stats(stats))


def find_owned(holder: str | None, group: str | None) -> Owned | None:
    """Returns the keys of a holder or of a group, by name or id; None without either.

    Raises:
        NotFound: there is no such holder or group.
    """
    if holder is not None:
        return Owned("holder", *select_key_ids(holder=holder))
    return None if group is None else Owned("group", *select_key_ids(group=group))


@activity_group.command("show")
@click.argument("request_id", metavar="ID")
def show_command(request_id: str) -> None:
    """Show the record of one request.

    ID is the x-request-id of its response, the provider's id, or the x-request-id that the client sent.
    """
    with plain_errors():
        try:
            story = select_request_story(request_id, None)
        except NotFound as error:
            raise click.ClickException(error.message) from error
    click.echo(format_story(story))


@activity_group.command("write-off")
@click.argument("worker_id", metavar="WORKER_ID")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def write_off_command(worker_id: str, yes: bool) -> None:
    """Give up the records of a missing worker. Its journal is gone for good.

    `GET /api/activity/integrity` lists missing workers, and those that were written off. The requests that the worker
    last reported and had not delivered count as unrecorded from then on; later ones are known to nobody. If its journal
    turns up after all, the gateway delivers it and corrects the counts.
    """

    def confirm(_: object) -> None:
        click.confirm("Is the worker's journal gone, and will its host not come back?", abort=True)

    with plain_errors():
        requests = write_off_worker(get_command_actor(), worker_id, None if yes else confirm)
    click.echo(
        f"Written off: at least {requests} of the requests of {worker_id} have no record. That is what it had not"
        " delivered when it last reported, and they count as unrecorded; what it did later is not known."
    )
