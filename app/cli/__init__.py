"""The commands of `flask --app wsgi …`: keys, groups, limits, budgets, aliases, the audit, the dashboard and others.

activity.py, aliases.py, audit.py, budgets.py, dashboard.py, db.py, groups.py, holders.py, keys.py and webhook.py
hold the commands. errors.py turns their errors into one sentence, tables.py formats statistics, limit_options.py reads
the options of limits, and limit_tables.py formats them.
"""

from __future__ import annotations

from flask import Flask

from app.cli.activity import activity_group
from app.cli.aliases import aliases_group
from app.cli.audit import audit_group
from app.cli.budgets import budgets_group
from app.cli.dashboard import dashboard_group
from app.cli.db import db_group
from app.cli.groups import groups_group, limits_group
from app.cli.holders import holders_group
from app.cli.keys import keys_group
from app.cli.webhook import webhook_group

__all__ = ["register_commands"]


def register_commands(app: Flask) -> None:
    """Adds the gateway's commands to `flask`."""
    groups = (activity_group, aliases_group, audit_group, budgets_group, dashboard_group, db_group, groups_group)
    for group in (*groups, holders_group, keys_group, limits_group, webhook_group):
        app.cli.add_command(group)
