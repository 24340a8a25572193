"""`bin/gateway keys`: creates, changes, rotates, lists and revokes gateway keys."""

from __future__ import annotations

from typing import Any

import click
from msgspec import UNSET

from app.cli.errors import plain_errors
from app.cli.limit_options import clear_option, limit_options, parse_duration, read_expiry, read_limits
from app.cli.limit_tables import format_key, format_keys
from app.runtime import get_settings
from app.services.administration import (
    KeyChanges,
    KeyView,
    NewKey,
    change_key,
    create_key,
    get_command_actor,
    list_keys,
    revoke_key,
    rotate_key,
    select_key_view,
)
from app.services.keys import REVOCATION_S

_EXPIRES_HELP = "When the key stops working: a day or time (UTC), or a duration such as 90d."


@click.group("keys")
def keys_group() -> None:
    """Create, change, rotate, list and revoke the keys of callers."""


@keys_group.command("create")
@click.argument("name")
@click.option("--holder", help="Who has the key: a holder that exists, or with limits a new one.")
@click.option("--group", help="The group of a new holder.")
@click.option("--expires", help=_EXPIRES_HELP)
@click.option("--operator", "is_operator", is_flag=True, help="A key with all rights, as GATEWAY_API_KEY has.")
@limit_options
def create_command(name: str, holder: str | None, group: str | None, expires: str | None, **given: Any) -> None:
    """Create a key called NAME and show it, this once.

    With limits or a group, the key gets a holder, which has the name of the key unless --holder says another.
    """
    is_operator = given.pop("is_operator")
    expires_at = read_expiry(expires)
    with plain_errors():
        wanted = NewKey(
            name=name,
            holder=UNSET if holder is None else holder,
            group=UNSET if group is None else group,
            expires_at=None if expires_at is UNSET else expires_at,
            is_operator=is_operator,
            **read_limits(given),
        )
        made = create_key(get_command_actor(), wanted)
    _show_new_key(made.key, made.data)
    _show_warnings(made.warnings)


def _show_new_key(key: str, view: KeyView) -> None:
    click.echo(key)
    click.echo(f"Id {view.id}, name {view.name!r}. Store the key now: the gateway keeps only its digest.", err=True)
    if view.holder or view.expires_at or view.is_operator:
        click.echo(format_key(view), err=True)


def _show_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)


@keys_group.command("env")
def env_command() -> None:
    """Print GATEWAY_API_KEY as the settings have it. A shell can put it into its environment."""
    keys = get_settings().gateway_api_key
    if not keys:
        raise click.ClickException("GATEWAY_API_KEY is not set. `make run` makes one, and keeps it in .env.local.")
    click.echo(keys[0])


@keys_group.command("list")
def list_command() -> None:
    """List all keys with their ids."""
    with plain_errors():
        keys = list_keys()
    click.echo(format_keys(keys))


@keys_group.command("show")
@click.argument("public_id", metavar="ID")
def show_command(public_id: str) -> None:
    """Show the key with this ID. Its limits and the use of its budgets are shown too."""
    with plain_errors():
        view = select_key_view(public_id)
    click.echo(format_key(view))


@keys_group.command("set")
@click.argument("public_id", metavar="ID")
@click.option("--name")
@click.option("--group", help="The group of its holder.")
@click.option("--expires", help=_EXPIRES_HELP)
@limit_options
@clear_option(of_keys=True)
def set_command(public_id: str, name: str | None, group: str | None, expires: str | None, **given: Any) -> None:
    """Change the key with this ID. Limits and the group are its holder's, whose other keys share them.

    A budget of the same unit and window gets the new amount; others stay (`bin/gateway budgets end` ends one).
    """
    expires_at = read_expiry(expires)
    with plain_errors():
        fields = read_limits(given)
        for field, value in (("name", name), ("group", group), ("expires_at", expires_at)):
            if value is not None and value is not UNSET:
                fields[field] = value
        if not fields:
            raise click.UsageError("Nothing to change is given. `bin/gateway keys set --help` lists the options.")
        view = change_key(get_command_actor(), public_id, KeyChanges(**fields), keep_budgets=True)
    click.echo(format_key(view))
    if fields.get("expires_at", UNSET) is None:
        _show_warnings(view.warn_if_endless())


@keys_group.command("rotate")
@click.argument("public_id", metavar="ID")
@click.option(
    "--overlap", default="24h", show_default=True, help="For how long the old key works on, such as 90m or 7d."
)
@click.option("--expires", help="When the new key stops working; by default when the old one would have.")
def rotate_command(public_id: str, overlap: str, expires: str | None) -> None:
    """Replace the key with this ID. A new one that shares its limits is shown, and the old one expires."""
    overlap_s, expires_at = parse_duration(overlap), read_expiry(expires)
    with plain_errors():
        made = rotate_key(get_command_actor(), public_id, overlap_s, expires_at)
        old = select_key_view(public_id)
    _show_new_key(made.key, made.data)
    click.echo(f"The key {old.id} works until {old.expires_at:%Y-%m-%d %H:%M:%S} UTC.", err=True)


@keys_group.command("revoke")
@click.argument("public_id", metavar="ID")
def revoke_command(public_id: str) -> None:
    """Revoke the key with this ID, as `bin/gateway keys list` shows it."""
    with plain_errors():
        view = revoke_key(get_command_actor(), public_id)
    click.echo(f"Revoked {view.id} ({view.name}). It stops working within {REVOCATION_S:g} seconds.")
