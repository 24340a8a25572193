"""`bin/gateway activity reprice`: adds a cost to records whose price was not known when they were made."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from app.cli.errors import plain_errors
from app.cli.tables import format_repriced
from app.cli.times import TIME
from app.services.providers import PROVIDERS
from app.services.repricing import reprice


@click.command("reprice")
@click.option("--from", "start", type=TIME, required=True, help="The earliest start of a request (UTC), included.")
@click.option("--to", "end", type=TIME, help="The latest (UTC), not included; by default now.")
@click.option("--gateway", type=click.Choice(list(PROVIDERS)))
@click.option("--dry-run", is_flag=True, help="Write nothing; show what would be written.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def reprice_command(start: datetime, end: datetime | None, gateway: str | None, dry_run: bool, yes: bool) -> None:
    """Give a cost to records whose price was unknown.

    The price is that of PRICE_FILE, else the one that the provider's list had then, else the package's for that day,
    else the first that became known later. The new cost is an estimate. The record keeps what it had, and the reason,
    in `repriced`; statistics follow, and what budgets were charged does not.
    """
    first, last = start.replace(tzinfo=UTC), (end or datetime.now(UTC)).replace(tzinfo=UTC)
    if first >= last:
        raise click.UsageError("--from must be before --to.")
    with plain_errors():
        report = reprice(first, last, gateway, is_dry=True)
        click.echo(format_repriced(report))
        if dry_run or not report.requests:
            return
        if not yes:
            click.confirm(f"Write these costs to {report.requests:,} records?", abort=True)
        done = reprice(first, last, gateway, is_dry=False)
    click.echo(f"{done.requests:,} records have a cost now: {done.cost_usd:f} USD in all.")
