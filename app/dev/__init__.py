"""The additions of `make run`: an embedded PostgreSQL, the sandbox, a key, and one command that starts everything.

    __main__.py    the command                 banner.py      its final output
    processes.py   child processes             env_file.py    the key in `.env.local`
    postgres.py    the embedded PostgreSQL     sandbox.py     starts the sandbox

Production does not use it: it starts `gunicorn wsgi:app`.
"""

from app.dev.postgres import EmbeddedPostgres
from app.dev.processes import Child, RunError, start_child
from app.dev.sandbox import sandbox_settings, start_sandbox

__all__ = ["Child", "EmbeddedPostgres", "RunError", "sandbox_settings", "start_child", "start_sandbox"]
