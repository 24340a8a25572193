"""The WSGI application that gunicorn serves: `gunicorn wsgi:app`."""

import os
import sys

import click

from app import create_app
from app.config import SettingsError

if click.get_current_context(silent=True) is not None:
    # A command of `flask` counts nothing, and may be run by a user who cannot write to the directory of the workers.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)

try:
    app = create_app()
except SettingsError as error:  # Commands of `flask` load the application too, and nothing has checked before them.
    sys.exit(f"The gateway cannot start: {error}")
