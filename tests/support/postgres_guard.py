"""Ends a test's PostgreSQL after the test process was killed or has crashed, even if the server is frozen.

It runs as a separate process, `python postgres_guard.py DATA_DIRECTORY`, and waits for the end of its standard input,
which comes however the test process ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import psutil


def end_server(data: Path) -> None:
    """Kills every process of the server on that data directory, if one is running."""
    try:
        postmaster = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
        # A killed server leaves the file, and another process may have its id by now.
        if str(data) not in postmaster.cmdline():
            return
        processes = [postmaster, *postmaster.children(recursive=True)]
    except (FileNotFoundError, psutil.NoSuchProcess):
        return
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    sys.stdin.read()
    end_server(Path(sys.argv[1]))
