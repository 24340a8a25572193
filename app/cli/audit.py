"""`bin/gateway audit`: shows all changes and who made them."""

from __future__ import annotations

from datetime import UTC, datetime

import click
import msgspec

from app.cli.errors import plain_errors
from app.cli.times import TIME
from app.services.administration import AuditFilter, select_audit_page


@click.group("audit")
def audit_group() -> None:
    """Show changes by operators. Each says who made it, and how it was before."""


@audit_group.command("list")
@click.option("--object", help="What was changed, such as key:4fGh2Kl9Pq or gateway.")
@click.option("--actor", help="Who changed it: the id of an operator's key, env for GATEWAY_API_KEY, or cli:USER.")
@click.option("--action", help="What was done, such as key.create.")
@click.option("--from", "start", type=TIME, help="The earliest time (UTC), included.")
@click.option("--to", "end", type=TIME, help="The latest time (UTC), not included.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=50, show_default=True)
def list_command(start: datetime | None, end: datetime | None, limit: int, **chosen: str | None) -> None:
    """List changes, newest first."""
    start, end = (None if each is None else each.replace(tzinfo=UTC) for each in (start, end))
    with plain_errors():
        page = select_audit_page(AuditFilter(start=start, end=end, **chosen), None, limit)
    for event in page.data:
        click.echo(f"{event.at:%Y-%m-%d %H:%M:%S} {event.actor} {event.action} {event.object}")
        for label, value in (("before", event.before), ("after", event.after)):
            if value is not None:
                click.echo(f"    {label:6} {msgspec.json.encode(value).decode()}")
