"""The WSGI application that gunicorn serves: `gunicorn wsgi:app`."""

import sys

from app import create_app
from app.config import SettingsError

try:
    app = create_app()
except SettingsError as error:  # Commands of `flask` load the application too, and nothing has checked before them.
    sys.exit(f"The gateway cannot start: {error}")
