"""The checks before the gateway starts. gunicorn's main process runs them once, in a child process."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Collection, Sequence
from typing import Any

from app.config import Settings
from app.logs import log_event, redact
from app.runtime import use_settings
from app.server.boot_checks import BOOT_CHECKS
from app.server.problems import Problem

# A stopping gateway closes its port at once; workers whose main process was killed close it within two seconds.
_PORT_PATIENCE_S = 3.0


def find_boot_problem(settings: Settings, addresses: Sequence[Any] = (), changed: Collection[str] = ()) -> str | None:
    """Returns the reason not to start, in one sentence, or None after logging the problems that do not block the start.

    Args:
        addresses: the addresses that gunicorn will bind: (host, port), the path of a Unix socket, or a descriptor.
        changed: the names of the settings that a reload changes. A problem caused by one of them blocks the start even
            if it would otherwise only be reported, because the serving gateway does not have it.
    """
    use_settings(settings)
    problems: dict[str, Problem] = {}
    for name, check in BOOT_CHECKS.items():
        if (problem := check()) is None:
            continue
        if problem.blocks == "start" or (problem.blocks == "reload" and not set(problem.settings).isdisjoint(changed)):
            return redact(problem.text)
        problems[name] = problem
    ports = (find_port_problem(*address) for address in addresses if isinstance(address, tuple))
    if (reason := next(filter(None, ports), None)) is not None:
        return redact(reason)
    for name, problem in problems.items():
        log_event("boot_check_failed", level="warning", check=name, reason=problem.text[:300])
    return None


def log_lowered_requests(settings: Settings, live_requests: int, open_files: int) -> None:
    """Logs that a worker serves only `live_requests` at once, because of the limit on open files."""
    log_event(
        "live_requests_lowered",
        level="warning",
        reason="The hard limit on open files is too low for MAX_LIVE_REQUESTS; raise it (ulimit -Hn, LimitNOFILE).",
        open_files=open_files,
        max_live_requests=settings.max_live_requests,
        effective=live_requests,
    )


def find_port_problem(host: str, port: int, patience_s: float = _PORT_PATIENCE_S) -> str | None:
    """Returns why the port cannot be used; waits up to `patience_s` for a gateway that is about to close it."""
    deadline_s = time.monotonic() + patience_s
    while (error := _try_to_bind(host, port)) is not None:
        if error.errno == errno.EADDRNOTAVAIL:
            return (
                f"{host} is not an address of this machine. Set HOST to one that is, to 127.0.0.1 for this machine only"
                " or to 0.0.0.0 for all."
            )
        if error.errno != errno.EADDRINUSE or time.monotonic() > deadline_s:
            return (
                f"port {port} of {host} cannot be used ({error.strerror}). Stop what uses it, or set PORT to another"
                " one, above 1023 unless it starts as root."
            )
        time.sleep(0.1)
    return None


def _try_to_bind(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As gunicorn does; otherwise the port of a gateway that has just stopped would seem to be in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None
