"""Runs pg_dump and pg_restore on the databases of tests."""

from __future__ import annotations

import subprocess
from urllib.parse import unquote

from app.dev.postgres import find_binaries


def get_name(url: str) -> str:
    """Returns the name of the database of an address."""
    return url.rpartition("/")[2].partition("?")[0]


def run_tool(name: str, url: str, *arguments: str) -> None:
    """Runs a tool of PostgreSQL on the database of an address."""
    database, host = get_name(url), url.partition("?host=")[2]
    options = ["--username=postgres", f"--host={unquote(host)}", f"--dbname={database}"]
    subprocess.run([str(find_binaries() / name), *options, *arguments], check=True)
