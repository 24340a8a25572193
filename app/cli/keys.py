"""`flask keys`: creates, lists and revokes gateway keys."""

from __future__ import annotations

import click

from app.cli.errors import plain_errors
from app.services.keys import REVOCATION_S, create_key, list_keys, revoke_key


@click.group("keys")
def keys_group() -> None:
    """Create, list and revoke the keys that callers use."""


@keys_group.command("create")
@click.argument("name")
def create_command(name: str) -> None:
    """Create a key called NAME and show it, this once."""
    with plain_errors():
        key, row = create_key(name)
    click.echo(key)
    click.echo(f"Id {row.id}, name {row.name!r}. Store the key now: the gateway keeps only its digest.", err=True)


@keys_group.command("list")
def list_command() -> None:
    """List all keys with their ids."""
    with plain_errors():
        rows = list_keys()
    click.echo(f"{'ID':12} {'NAME':24} {'ENDS IN':8} {'CREATED':20} REVOKED")
    for row in rows:
        revoked = f"{row.revoked_at:%Y-%m-%d %H:%M:%S}" if row.revoked_at else "-"
        click.echo(f"{row.id:12} {row.name:24} {row.last_four:8} {row.created_at:%Y-%m-%d %H:%M:%S}  {revoked}")


@keys_group.command("revoke")
@click.argument("public_id", metavar="ID")
def revoke_command(public_id: str) -> None:
    """Revoke the key with this ID, as `flask keys list` shows it."""
    with plain_errors():
        row = revoke_key(public_id)
    if row is None:
        raise click.ClickException(f"There is no key with the id {public_id!r}. `flask keys list` shows all keys.")
    click.echo(f"Revoked {row.id} ({row.name}). It stops working within {REVOCATION_S:g} seconds.")
