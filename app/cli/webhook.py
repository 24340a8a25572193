"""`bin/gateway webhook`: tests the address for warnings of budgets."""

from __future__ import annotations

import click

from app.cli.errors import plain_errors
from app.config import SettingsError
from app.runtime import get_settings
from app.services.webhook import send_test_message


@click.group("webhook")
def webhook_group() -> None:
    """Try the address to which warnings of budgets are sent."""


@webhook_group.command("test")
def test_command() -> None:
    """Send a test message to LIMITS_WEBHOOK. Exit code 1 if the receiver does not accept it."""
    with plain_errors():
        settings = get_settings()
        if settings.limits_webhook is None:
            raise SettingsError("LIMITS_WEBHOOK is not set. Set it to the address that should get warnings of budgets.")
        reason = send_test_message(settings)
    if reason is not None:
        raise click.ClickException(f"The receiver at LIMITS_WEBHOOK did not accept the message: {reason}.")
    click.echo("The receiver accepted the test message.")
