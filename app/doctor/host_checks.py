"""Checks this machine: the checks before the gateway's start, the port, open files, and the room for the journal."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from app.doctor.results import Result, fail, ok, warn
from app.doctor.url_checks import is_gateway
from app.runtime import get_settings
from app.server.boot_checks import BOOT_CHECKS
from app.server.open_files import fit_to_open_files
from app.server.preflight import find_port_problem

# With less space, in bytes, a busy gateway fills the disk within minutes of an outage of the database.
_LEAST_FREE_BYTES = 1 << 30
_PORT_TIMEOUT_S = 3.0
# In database_checks.py and setting_checks.py.
_ELSEWHERE = {"database", "direct_database", "names"}


def check_boot(mistaken: Collection[str]) -> Iterator[Result]:
    """Yields the results of gunicorn's checks before the start, except those reported elsewhere.

    Args:
        mistaken: the names of unreadable settings. Problems caused by them are left out.
    """
    for name, check in BOOT_CHECKS.items():
        if name in _ELSEWHERE:
            continue
        if name == "journal_directory" and _is_to_be_made(get_settings().journal_dir):
            yield ok(name, f"the start makes {get_settings().journal_dir}")
            continue
        problem = check()
        if problem is None:
            yield ok(name, "no problem found")
        elif set(problem.settings).isdisjoint(mistaken):
            yield (fail if problem.blocks == "start" else warn)(name, problem.text)


def check_journal() -> Iterator[Result]:
    """Reports whether JOURNAL_DIR has room, and whether it has records that PostgreSQL refused."""
    directory = get_settings().journal_dir
    existing = _find_existing(directory)
    if not existing.is_dir():
        return  # `check_boot` has reported the reason.
    free = shutil.disk_usage(existing).free
    if free < _LEAST_FREE_BYTES:
        yield warn("journal", f"the disk of JOURNAL_DIR ({directory}) has {free >> 20} MB left. Make room, or move it.")
    else:
        yield ok("journal", f"the disk of {directory} has {free >> 30} GB left")
    rejected = directory / "rejected.jsonl"
    try:
        size = rejected.stat().st_size
    except OSError:
        return
    if size:
        yield warn(
            "journal",
            f"{rejected} has {size} bytes of records that PostgreSQL refused. Read the reason in its lines, report it,"
            " and move the file away.",
        )


def _is_to_be_made(directory: Path) -> bool:
    """Returns whether a directory does not exist and this user may make it, which only the gateway should do."""
    existing = _find_existing(directory)
    return existing != directory and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _find_existing(path: Path) -> Path:
    """Returns the path, or the nearest one above it that exists."""
    # Unlike the method of Path, it does not fail where this user may not look.
    return next((each for each in (path, *path.absolute().parents) if os.path.exists(each)), path)  # noqa: PTH110


def check_port(mistaken: Collection[str]) -> Iterator[Result]:
    """Reports whether the gateway may listen on PORT, unless a gateway answers there, which then runs already.

    It only warns, because systemd may listen for the gateway.

    Args:
        mistaken: the names of unreadable settings.
    """
    if not {"HOST", "PORT"}.isdisjoint(mistaken):
        return
    settings = get_settings()
    problem = find_port_problem(settings.host, settings.port, patience_s=0)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    address = urlsplit(f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}")
    if problem is None:
        yield ok("port", f"port {settings.port} of {settings.host} is free")
    elif is_gateway(address, _PORT_TIMEOUT_S):
        yield ok("port", f"a gateway answers at port {settings.port}")
    else:
        yield warn("port", f"{problem} If systemd listens there for the gateway (gateway.socket), that is no problem.")


def check_open_files() -> Iterator[Result]:
    """Reports whether MAX_LIVE_REQUESTS fits into the limit on open files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    hard = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    wanted = get_settings().max_live_requests
    possible, _ = fit_to_open_files(wanted, hard)
    if possible < wanted:
        yield warn(
            "open_files",
            f"with a hard limit of {hard} open files a worker serves {possible} requests at once and not {wanted}"
            " (MAX_LIVE_REQUESTS). Raise the limit (ulimit -Hn, LimitNOFILE) or lower the setting.",
        )
    else:
        yield ok("open_files", f"the hard limit is enough for {wanted} requests at once in each worker")


def check_cores() -> Iterator[Result]:
    """Reports whether there are more workers than cores."""
    workers, cores = get_settings().web_concurrency, len(os.sched_getaffinity(0))
    if workers > cores:
        yield warn("workers", f"WEB_CONCURRENCY is {workers} and there are {cores} cores. Set it to {cores}.")
    else:
        yield ok("workers", f"{workers} workers on {cores} cores")
