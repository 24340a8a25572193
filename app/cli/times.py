"""The type of times in the options of commands."""

from __future__ import annotations

import click

# A day, or a time to the second, in UTC.
TIME = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"])
