"""The commands of `bin/gateway …`: keys, groups, limits, budgets, aliases, the audit, the dashboard and others.

A module has the group of commands, or the command, of the same name. errors.py turns errors into one sentence,
tables.py formats statistics, bill_tables.py formats bills, limit_options.py reads the options of limits,
limit_tables.py formats them, and times.py has the type of times in options.
"""

from __future__ import annotations

import sys

import click
from flask import Flask
from flask.cli import AppGroup

from app.cli.activity import activity_group
from app.cli.aliases import aliases_group
from app.cli.audit import audit_group
from app.cli.bill import bill_group
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


_GROUPS = (
    activity_group, aliases_group, audit_group, bill_group, budgets_group, dashboard_group, db_group, groups_group,
    holders_group, journal_group, keys_group, limits_group, webhook_group,
)  # fmt: skip
_WITHOUT_SETTINGS = (doctor_command, version_command)

for command in (reprice_command, retries_command):
    activity_group.add_command(command)


def register_commands(app: Flask) -> None:
    """Adds the gateway's commands to `flask`."""
    for command in (*_GROUPS, *_WITHOUT_SETTINGS):
        app.cli.add_command(command)


class CommandsWithoutSettings(AppGroup):
    """The commands of an application that cannot be created because a setting is wrong.

    `doctor`, which names all problems, and `version` work. Other commands show their help, and name the problem.

    Args:
        reason: the problem.
    """

    def __init__(self, reason: str) -> None:
        super().__init__()
        names = " and ".join(f"`{command.name}`" for command in _WITHOUT_SETTINGS)
        self._note = f"A setting is malformed: {reason} Only {names} work until this is mended."
        for command in (*_GROUPS, *_WITHOUT_SETTINGS):
            self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of all commands for the help, which it ends with the problem and the working commands."""
        ctx.command.epilog = f"\b\n{self._note}"  # In one line, as click leaves it after this character.
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a working command, or one that is only asked for its help.

        Raises:
            SystemExit: it is any other command.
        """
        if cmd_name not in {command.name for command in _WITHOUT_SETTINGS} and not _is_help_wanted():
            sys.exit(self._note)
        return super().get_command(ctx, cmd_name)


def _is_help_wanted() -> bool:
    arguments = sys.argv[1:]
    return not arguments or "--help" in arguments
