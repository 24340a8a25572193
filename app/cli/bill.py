"""`bin/gateway bill`: compares a provider's bill with the records, and makes statements."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import click
import msgspec

from app.cli.activity import find_owned
from app.cli.bill_tables import format_reconciliation
from app.cli.errors import make_output_error, plain_errors
from app.cli.statements import encode_statement_csv, render_statement
from app.db import read_connection
from app.db.clock import select_now
from app.services.bill import (
    Statement,
    choose_month,
    choose_provider,
    fetch_bill,
    get_bill_names,
    select_reconciliation,
    select_statement,
)

_MONTH = "The month, such as 2026-11. [default: that of yesterday]"


@click.group("bill")
def bill_group() -> None:
    """Compare a provider's bill with the records. Statements for groups and holders pass the cost on."""


@bill_group.command("reconcile")
@click.option("--month", help=_MONTH)
@click.option("--gateway", type=click.Choice(get_bill_names(), case_sensitive=False), help="The provider.")
@click.option("--no-fetch", is_flag=True, help="Do not ask the provider; compare with what was last fetched.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def reconcile(month: str | None, gateway: str | None, no_fetch: bool, as_json: bool) -> None:
    """Compare a month's bill with the records. It is fetched first, and compared by day and model."""
    with plain_errors():
        provider = choose_provider(gateway)
        with read_connection() as connection:
            today = select_now(connection).date()
        chosen = choose_month(month, today)
        if not no_fetch:
            # Today is never complete, but a month that begins today has no other day.
            last = max(chosen.start, min(chosen.last, today - timedelta(days=1)))
            fetch_bill(provider, chosen.start, last)
        report = select_reconciliation(provider.name, chosen.name)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        click.echo(format_reconciliation(report))


@bill_group.command("statement")
@click.option("--month", help=_MONTH)
@click.option("--group", help="Of all keys of a group, by its name or id.")
@click.option("--holder", help="Of all keys of a holder, by name or id.")
@click.option("--format", "form", type=click.Choice(["csv", "json", "html"]), default="csv", show_default=True)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file. [default: standard output]")
def statement(month: str | None, group: str | None, holder: str | None, form: str, output: Path | None) -> None:
    """Print what was used in a month, to pass the cost on.

    It is what a group, a holder or all keys used, by key, model and day.
    """
    if group is not None and holder is not None:
        raise click.UsageError("Give --group or --holder, not both.")
    with plain_errors():
        made = select_statement(month, find_owned(holder, group))
    encode = {"csv": encode_statement_csv, "json": _encode_json, "html": _encode_html}[form]
    if output is None:
        sys.stdout.buffer.write(encode(made))
        return
    try:
        output.write_bytes(encode(made))
    except OSError as error:
        raise make_output_error(output, error) from error
    click.echo(f"{len(made.lines)} lines written to {output}.", err=True)


def _encode_json(made: Statement) -> bytes:
    return msgspec.json.format(msgspec.json.encode(made)) + b"\n"


def _encode_html(made: Statement) -> bytes:
    return render_statement(made).encode("utf-8", "replace")
