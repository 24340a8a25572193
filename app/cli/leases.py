"""`bin/gateway budgets leases`, `release`, `check`, `forgive`: the draws of workers from budgets, and corrections."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import click

from app.cli.errors import plain_errors
from app.services.administration import check_leases, forgive_request, get_command_actor, list_leases, release_worker


@click.command("leases")
def leases_command() -> None:
    """List uncharged draws of workers from budgets. They are in use, or unaccounted."""
    with plain_errors():
        rows = list_leases()
    click.echo(f"{'WORKER':32} {'STATE':12} {'HOST':16} {'BUDGET':>8} {'SUBJECT':24} {'PERIOD':16} {'NOT CHARGED':>20}")
    for row in rows:
        amount = f"{_format(row.drawn - row.charged)} {row.unit}"
        state = "unaccounted" if row.kept else row.worker_state
        start = f"{row.start_at:%Y-%m-%d %H:%M}"
        line = f"{row.worker_id:32} {state:12} {row.host or '-':16} {row.budget_id:>8} {row.subject:24} {start:16}"
        click.echo(f"{line} {amount:>20}")


@click.command("release")
@click.argument("worker_id", metavar="WORKER")
@click.option("--free", "is_free", is_flag=True, help="It was not spent: give it back to the budgets.")
@click.option("--charge", "is_charged", is_flag=True, help="It may be spent: count it as spent.")
def release_command(worker_id: str, is_free: bool, is_charged: bool) -> None:
    """Close the leases of a WORKER that is gone. Its host will not come back, for example."""
    if is_free == is_charged:
        raise click.UsageError("Say what becomes of the rest: --free gives it back, --charge counts it as spent.")
    with plain_errors():
        closed = release_worker(get_command_actor(), worker_id, free=is_free)
    kept = ", ".join(f"{_format(Decimal(each.amount))} {each.unit}" for each in closed.kept)
    click.echo(f"Closed {closed.leases} leases of {worker_id}; {f'counted as spent: {kept}' if kept else 'no rest'}.")


@click.command("check")
def check_command() -> None:
    """Check that leases, charges and budgets agree. Exit code 1 if they do not."""
    with plain_errors():
        mistakes = check_leases()
    for each in mistakes:
        worker = f" of the worker {each.worker_id}" if each.worker_id else ""
        found, expected = _format(each.found), _format(each.expected)
        what = {
            "above": f"{found} are granted of {expected}; the log has budget_overrun, or the budget was cut",
            "granted": f"{found} are granted, but workers have drawn {expected}",
            "closed": f"{found} are drawn, but {expected} are charged",
            "kept": f"{found} are drawn, but {expected} are charged",
        }[each.kind]
        click.echo(f"Budget {each.period_id >> 32}, period {each.period_id}{worker}: {what}.")
    wrong = [each for each in mistakes if each.kind != "above"]
    if wrong:
        raise click.ClickException(f"Leases, charges and budgets differ in {len(wrong)} places.")
    click.echo("Leases, charges and budgets agree.")


@click.command("forgive")
@click.argument("request_id", metavar="REQUEST_ID", type=click.UUID)
def forgive_command(request_id: UUID) -> None:
    """Reduce a request's charge to its known use. It was charged the most, because its cost was not known."""
    with plain_errors():
        forgiven = forgive_request(get_command_actor(), request_id)
    click.echo(f"Given back: {_format(forgiven.usd)} USD, {forgiven.tokens:,} tokens.")


LEASE_COMMANDS = (leases_command, release_command, check_command, forgive_command)


def _format(amount: Decimal) -> str:
    return f"{amount.normalize():,f}" if amount else "0"
