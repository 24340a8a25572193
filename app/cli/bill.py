"""`flask bill`: compares a provider's bill with the records."""

from __future__ import annotations

from datetime import timedelta

import click
import msgspec

from app.cli.bill_tables import format_reconciliation
from app.cli.errors import plain_errors
from app.db import read_connection
from app.db.clock import select_now
from app.services.bill import choose_month, choose_provider, fetch_bill, get_bill_names, select_reconciliation

_MONTH = "The month, such as 2026-11. [default: that of yesterday]"


@click.group("bill")
def bill_group() -> None:
    """Compare what a provider billed with what the gateway recorded."""


@bill_group.command("reconcile")
@click.option("--month", help=_MONTH)
@click.option("--gateway", type=click.Choice(get_bill_names(), case_sensitive=False), help="The provider.")
@click.option("--no-fetch", is_flag=True, help="Do not ask the provider; compare with what was last fetched.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def reconcile(month: str | None, gateway: str | None, no_fetch: bool, as_json: bool) -> None:
    """Fetch a month's bill and compare it with the records, by day and model."""
    with plain_errors():
        provider = choose_provider(gateway)
        with read_connection() as connection:
            today = select_now(connection).date()
        chosen = choose_month(month, today)
        if not no_fetch:
            # Today is never complete, but a month that begins today has nothing else.
            last = max(chosen.start, min(chosen.last, today - timedelta(days=1)))
            fetch_bill(provider, chosen.start, last)
        report = select_reconciliation(provider.name, chosen.name)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        click.echo(format_reconciliation(report))
