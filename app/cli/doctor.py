"""`bin/gateway doctor`: examines the set-up, even if settings are malformed."""

from __future__ import annotations

import json

import click
import msgspec


@click.command("doctor")
@click.option("--url", help="The address at which clients reach the gateway, to check what proxies do to streams.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option(
    "--silence", "silence_s", type=click.IntRange(1, 3600), help="With --url: how many seconds proxies must wait."
)
@click.option("--paid", is_flag=True, help="Also send one request of one token with each key, which providers bill.")
def doctor_command(url: str | None, as_json: bool, silence_s: int | None, paid: bool) -> None:
    """Check settings, database, disk, providers and proxies. Exit code 1 if something fails."""
    from app.doctor import examine  # Imported here, because each worker imports the commands.

    failed = 0
    for result in examine(url, silence_s=silence_s, paid=paid):
        failed += result.status == "fail"
        if as_json:
            click.echo(json.dumps(msgspec.structs.asdict(result)))
        else:
            click.echo(f"{result.status:5} {result.check:18} {result.text}")
    raise SystemExit(1 if failed else 0)
