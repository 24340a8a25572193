"""`bin/gateway dashboard`: a link that signs in to the dashboard."""

from __future__ import annotations

import click

from app.cli.errors import plain_errors
from app.runtime import get_settings
from app.services.sessions import LINK_LIFE_MINUTES, create_link_for


@click.group("dashboard")
def dashboard_group() -> None:
    """Sign in to the dashboard."""


@dashboard_group.command("link")
@click.option("--key", "key_id", metavar="ID", help="Sign in as the key with this id; by default as GATEWAY_API_KEY.")
@click.option("--url", help="The gateway's address, as the browser reaches it.")
def link_command(key_id: str | None, url: str | None) -> None:
    """Print a link that signs in to the dashboard. It works once, and within five minutes."""
    with plain_errors():
        token = create_link_for(key_id)
        base = (url or f"http://localhost:{get_settings().port}").rstrip("/")
    click.echo(f"{base}/dashboard/link?token={token}")
    click.echo(f"It works once, within {LINK_LIFE_MINUTES} minutes.", err=True)
