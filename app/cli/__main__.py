"""The command `bin/gateway`: the commands of `flask --app wsgi`, from any directory, with the settings of `make run`.

Unlike `flask`, it leaves `.env` to the gateway. `flask` would put the defaults in it into the environment, where they
would precede `.env.local`.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import cast

from flask import Flask
from flask.cli import FlaskGroup

from app.run_file import read_run_file


def _make_app() -> Flask:
    return cast(Flask, importlib.import_module("wsgi").app)


def _use_settings_of_run() -> None:
    """Adds the settings of the running `make run`, except those set in this environment."""
    given = {name: value for name, value in os.environ.items() if value.strip()}
    os.environ.update({**read_run_file(), **given})


def main() -> None:
    """Runs one command."""
    _use_settings_of_run()
    os.environ["FLASK_SKIP_DOTENV"] = "1"  # Tells wsgi.py that nothing has come from `.env`.
    group = FlaskGroup(
        create_app=_make_app,
        add_default_commands=False,
        add_version_option=False,
        load_dotenv=False,
        help="The gateway's commands. Settings are read from the environment, .env.local and .env.",
    )
    group.params = []  # Flask's own options select another application and its debug mode.
    args = ["version"] if sys.argv[1:] == ["--version"] else sys.argv[1:]
    group.main(args=args, prog_name="bin/gateway")


if __name__ == "__main__":
    main()
