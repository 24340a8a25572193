"""`bin/gateway holders`: shows holders of keys with what they have used, renames and deletes them."""

from __future__ import annotations

import click

from app.cli.errors import plain_errors
from app.cli.limit_tables import format_holder, format_holders
from app.services.administration import (
    HolderPatch,
    change_holder,
    delete_holder,
    get_command_actor,
    select_holder,
    select_holders_page,
)


@click.group("holders")
def holders_group() -> None:
    """Show, rename and delete holders of keys."""


@holders_group.command("list")
@click.option("--group", help="Only the holders of this group.")
def list_command(group: str | None) -> None:
    """List all holders, with what their keys have cost this month (UTC)."""
    with plain_errors():
        page = select_holders_page(group=group)
    click.echo(format_holders(page.data))


@holders_group.command("show")
@click.argument("holder", metavar="HOLDER")
def show_command(holder: str) -> None:
    """Show the holder with this name or id. Its keys, its limits and the use of its budgets are shown too."""
    with plain_errors():
        found = select_holder(holder)
    click.echo(format_holder(found))


@holders_group.command("rename")
@click.argument("holder", metavar="HOLDER")
@click.argument("name")
def rename_command(holder: str, name: str) -> None:
    """Give the holder with this name or id another NAME. Its keys keep their own names."""
    with plain_errors():
        changed = change_holder(get_command_actor(), holder, HolderPatch(name=name), keep_budgets=True)
    click.echo(format_holder(changed))


@holders_group.command("delete")
@click.argument("holder", metavar="HOLDER")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete_command(holder: str, yes: bool) -> None:
    """Delete the holder with this name or id. Its keys must be revoked; its budgets are deleted too."""
    with plain_errors():
        found = select_holder(holder)
        found.raise_if_has_keys()
        if not yes:
            click.confirm(
                f"The holder {found.name} and what was charged to its budgets will be deleted. Continue?", abort=True
            )
        delete_holder(get_command_actor(), found.id)
    click.echo(f"Deleted the holder {found.name}.")
