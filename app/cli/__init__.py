"""The commands of `flask --app wsgi …`: keys, the database, activity, the webhook.

activity.py, db.py, keys.py and webhook.py hold the commands. errors.py turns their errors into one sentence, and
tables.py formats statistics.
"""

from __future__ import annotations

from flask import Flask

from app.cli.activity import activity_group
from app.cli.db import db_group
from app.cli.keys import keys_group
from app.cli.webhook import webhook_group

__all__ = ["register_commands"]


def register_commands(app: Flask) -> None:
    """Adds the gateway's commands to `flask`."""
    app.cli.add_command(activity_group)
    app.cli.add_command(db_group)
    app.cli.add_command(keys_group)
    app.cli.add_command(webhook_group)
