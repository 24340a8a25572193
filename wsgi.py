"""The WSGI application that gunicorn serves: `gunicorn wsgi:app`."""

import os
import sys
from pathlib import Path

import click
from flask.helpers import get_load_dotenv

from app import create_app
from app.config import SettingsError
from app.env_file import forget_dotenv

is_command = click.get_current_context(silent=True) is not None
if is_command:
    # A command of `flask` counts nothing, and its user may lack write permission for the workers' directory.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

if "gunicorn.arbiter" in sys.modules and "app.server.worker_class" not in sys.modules:
    # gunicorn's default worker starts neither the journal nor the drain.
    path = Path(__file__).with_name("gunicorn.conf.py")
    said = (
        f"The gateway cannot start: gunicorn has not read {path}. Start it in that directory and without -c (--chdir"
        f" comes too late), or with -c {path}."
    )
    os.write(2, f"{said}\n".encode())
    sys.exit(4)  # This code tells gunicorn that another attempt would fail too.

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
