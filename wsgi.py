"""The WSGI application that gunicorn serves: `gunicorn wsgi:app`."""

import os
import sys

import click
from flask.helpers import get_load_dotenv

from app import create_app
from app.config import SettingsError
from app.env_file import forget_dotenv

is_command = click.get_current_context(silent=True) is not None
if is_command:
    # A command of `flask` counts nothing, and may be run by a user who cannot write to the directory of the workers.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

try:
    if is_command and get_load_dotenv():
        forget_dotenv()
    app = create_app()
except SettingsError as error:
    if not is_command:
        sys.exit(f"The gateway cannot start: {error}")
    from flask import Flask

    from app.cli import CommandsWithoutSettings

    app = Flask(__name__, static_folder=None)
    app.cli = CommandsWithoutSettings(str(error))
