"""The commands of `bin/gateway …`: keys, groups, limits, budgets, aliases, the audit, the dashboard and others.

A module holds the group of commands, or the command, that it is named after. errors.py turns their errors into one
sentence, tables.py formats statistics, limit_options.py reads the options of limits, and limit_tables.py formats them.
"""

from __future__ import annotations

import sys

import click
from flask import Flask
from flask.cli import AppGroup

from app.cli.activity import activity_group
from app.cli.aliases import aliases_group
from app.cli.audit import audit_group
from app.cli.budgets import budgets_group
from app.cli.dashboard import dashboard_group
from app.cli.db import db_group
from app.cli.doctor import doctor_command
from app.cli.groups import groups_group, limits_group
from app.cli.holders import holders_group
from app.cli.journal import journal_group
from app.cli.keys import keys_group
from app.cli.reprice import reprice_command
from app.cli.retries import retries_command
from app.cli.version import version_command
from app.cli.webhook import webhook_group

__all__ = ["CommandsWithoutSettings", "register_commands"]


def register_commands(app: Flask) -> None:
    """Adds the gateway's commands to `flask`."""
    groups = (activity_group, aliases_group, audit_group, budgets_group, dashboard_group, db_group, groups_group)
    for group in (*groups, holders_group, journal_group, keys_group, limits_group, webhook_group):
        app.cli.add_command(group)
    for command in (reprice_command, retries_command):
        activity_group.add_command(command)
    for command in (doctor_command, version_command):
        app.cli.add_command(command)


class CommandsWithoutSettings(AppGroup):
    """The commands of an application that cannot be made, because a setting is wrong: `doctor` works, which names all.

    Args:
        reason: what is wrong, which all other commands say.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        self._reason = reason
        self.add_command(doctor_command)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the command `doctor`.

        Raises:
            SystemExit: it is another one.
        """
        if cmd_name != doctor_command.name:
            sys.exit(f"The gateway cannot start: {self._reason}")
        return doctor_command
