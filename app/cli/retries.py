"""`bin/gateway activity retries`: shows the cost of clients' retries."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from app.cli.errors import plain_errors
from app.cli.tables import format_retries
from app.cli.times import TIME
from app.services.keys import raise_if_no_key
from app.services.reports import select_retry_report


@click.command("retries")
@click.option("--from", "start", type=TIME, help="The earliest start of an attempt (UTC), included.")
@click.option("--to", "end", type=TIME, help="The latest (UTC), not included; by default now.")
@click.option("--key", "key_id", help="The id of a key, or env for GATEWAY_API_KEY.")
def retries_command(start: datetime | None, end: datetime | None, key_id: str | None) -> None:
    """Show the cost of attempts that SDKs retried. It is shown by key and client, by default of seven days."""
    with plain_errors():
        if key_id is not None:
            raise_if_no_key(key_id)
        first, last = (None if each is None else each.replace(tzinfo=UTC) for each in (start, end))
        report = select_retry_report(key_id, first, last)
    click.echo(format_retries(report))
