"""`bin/gateway budgets`: lists budgets with what is used of them, raises one for its current period, and ends one."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import click

from app.cli.errors import plain_errors
from app.cli.leases import LEASE_COMMANDS
from app.cli.limit_tables import format_budgets
from app.services.administration import end_budget, get_command_actor, raise_budget, select_budget_page


@click.group("budgets")
def budgets_group() -> None:
    """List, raise and end budgets. The list says what is used of each."""


for command in LEASE_COMMANDS:
    budgets_group.add_command(command)


@budgets_group.command("list")
@click.option("--above", type=click.IntRange(0, 1_000), help="Only those of which so many percent are charged.")
def list_command(above: int | None) -> None:
    """List all budgets that count."""
    with plain_errors():
        page = select_budget_page(above=above, cursor=None, limit=None)
    click.echo(format_budgets(page.data))


@budgets_group.command("raise")
@click.argument("budget_id", metavar="ID", type=int)
@click.argument("amount")
def raise_command(budget_id: int, amount: str) -> None:
    """Add AMOUNT to a budget, in its current period alone. `-- -5` takes 5 of an earlier raise back."""
    try:
        extra = Decimal(amount)
    except InvalidOperation:
        raise click.UsageError(f"{amount!r} is not an amount. Write a number, such as 20 or 0.5.") from None
    with plain_errors():
        state = raise_budget(get_command_actor(), budget_id, extra)
    click.echo(format_budgets([state]))


@budgets_group.command("end")
@click.argument("budget_id", metavar="ID", type=int)
def end_command(budget_id: int) -> None:
    """End the budget with this ID. It no longer counts then."""
    with plain_errors():
        end_budget(get_command_actor(), budget_id)
    click.echo(f"Ended the budget {budget_id}. Requests that are being served are still charged to it.")
