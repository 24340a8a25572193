"""`bin/gateway version`: shows the version of this code."""

from __future__ import annotations

import click

from app.version import get_version


@click.command("version")
def version_command() -> None:
    """Show the version. Logs and `/health` have the same."""
    click.echo(get_version())
