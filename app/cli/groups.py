"""`bin/gateway groups`, whose holders share limits, and `bin/gateway limits`, those of the whole gateway."""

from __future__ import annotations

from typing import Any

import click

from app.cli.errors import plain_errors
from app.cli.limit_options import clear_option, limit_options, read_limits
from app.cli.limit_tables import format_group, format_groups, format_limits
from app.services.administration import (
    GroupChanges,
    LimitChanges,
    NewGroup,
    change_gateway_limits,
    change_group,
    create_group,
    delete_group,
    get_command_actor,
    select_gateway_limits,
    select_group,
    select_groups,
)


@click.group("groups")
def groups_group() -> None:
    """Manage groups of holders. The holders share the limits of their group."""


@groups_group.command("create")
@click.argument("name")
@limit_options
def create_command(name: str, **given: Any) -> None:
    """Create a group called NAME."""
    with plain_errors():
        group = create_group(get_command_actor(), NewGroup(name=name, **read_limits(given)))
    click.echo(format_group(group))


@groups_group.command("set")
@click.argument("group", metavar="GROUP")
@click.option("--name", help="A new name.")
@limit_options
@clear_option()
def set_command(group: str, name: str | None, **given: Any) -> None:
    """Change the group with this name or id.

    A budget of the same unit and window gets the new amount; others stay (`bin/gateway budgets end` ends one).
    """
    with plain_errors():
        fields = read_limits(given) | ({} if name is None else {"name": name})
        if not fields:
            raise click.UsageError("Nothing to change is given. `bin/gateway groups set --help` lists the options.")
        changed = change_group(get_command_actor(), group, GroupChanges(**fields), keep_budgets=True)
    click.echo(format_group(changed))


@groups_group.command("list")
def list_command() -> None:
    """List all groups."""
    with plain_errors():
        groups = select_groups()
    click.echo(format_groups(groups))


@groups_group.command("show")
@click.argument("group", metavar="GROUP")
def show_command(group: str) -> None:
    """Show the group with this name or id. The use of its budgets is shown too."""
    with plain_errors():
        found = select_group(group)
    click.echo(format_group(found))


@groups_group.command("delete")
@click.argument("group", metavar="GROUP")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def delete_command(group: str, yes: bool) -> None:
    """Delete the group with this name or id. It must have no holders; its budgets are deleted too."""
    with plain_errors():
        found = select_group(group)
        found.raise_if_used()
        if not yes:
            click.confirm(
                f"The group {found.name} and what was charged to its budgets will be deleted. Continue?", abort=True
            )
        delete_group(get_command_actor(), found.id)
    click.echo(f"Deleted the group {found.name}.")


@click.group("limits")
def limits_group() -> None:
    """Show and change the limits of the whole gateway. They bind every request, also those of operators."""


@limits_group.command("show")
def show_limits_command() -> None:
    """Show the limits of the gateway, and what is used of its budgets."""
    with plain_errors():
        limits = select_gateway_limits()
    click.echo(format_limits(limits))


@limits_group.command("set")
@limit_options
@clear_option()
def set_limits_command(**given: Any) -> None:
    """Change the limits of the gateway.

    A budget of the same unit and window gets the new amount; others stay (`bin/gateway budgets end` ends one).
    """
    with plain_errors():
        fields = read_limits(given)
        if not fields:
            raise click.UsageError("Nothing to change is given. `bin/gateway limits set --help` lists the options.")
        limits = change_gateway_limits(get_command_actor(), LimitChanges(**fields), keep_budgets=True)
    click.echo(format_limits(limits))
