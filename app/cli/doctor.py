"""`bin/gateway doctor`: examines the set-up, also where settings are malformed."""

from __future__ import annotations

import json

import click
import msgspec


@click.command("doctor")
@click.option("--url", help="The address at which clients reach the gateway, to check what proxies do to streams.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def doctor_command(url: str | None, as_json: bool) -> None:
    """Check settings, database, disk, providers and proxies. Exit code 1 if something fails."""
    from app.doctor import examine  # Only here: each worker imports the commands.

    failed = 0
    for result in examine(url):
        failed += result.status == "fail"
        if as_json:
            click.echo(json.dumps(msgspec.structs.asdict(result)))
        else:
            click.echo(f"{result.status:5} {result.check:18} {result.text}")
    raise SystemExit(1 if failed else 0)
