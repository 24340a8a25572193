"""`bin/gateway version`: shows the version of this code."""

from __future__ import annotations

import click

from app.version import get_version


@click.command("version")
def version_command() -> None:
    """Show the version, as logs and `/health` have it."""
    click.echo(get_version())
