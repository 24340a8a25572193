"""The limit on open files, the number of requests that fit into it, and room in the kernel's file table.

gunicorn's main process imports this before the fork.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys
from contextlib import suppress

# The number of files that a worker has open besides the connections of requests: some 30 files and sockets for the
# journal, the database, the metrics and the log, and room for readers of exports and fetches of model lists.
_RESERVED_FILES = 100
# Clients keep idle connections in addition to those of their requests.
_IDLE_CONNECTIONS = 1_000


def raise_open_file_limit() -> int:
    """Raises the limit of this process and its future children to the hard limit; returns the limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # macOS names no hard limit but has one in the kernel; then the soft limit stays.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def fit_to_open_files(live_requests: int, open_files: int) -> tuple[int, int]:
    """Returns how many requests and how many client connections a worker can have at once.

    Each request has two connections, the client's and the provider's. The same number of client connections again may
    be idle or waiting to be refused with the reason.

    Args:
        live_requests: MAX_LIVE_REQUESTS, the upper bound of the returned number of requests.
        open_files: the limit on open files.
    """
    idle = min(_IDLE_CONNECTIONS, open_files // 4)
    live_requests = max(1, min(live_requests, (open_files - _RESERVED_FILES - idle) // 3))
    return live_requests, 2 * live_requests + idle


def make_room_for_files(connections: int, open_files: int) -> None:
    """Makes the kernel enlarge this process's file table now; call it before there are threads.

    The kernel doubles the table whenever it is full. In a process with threads it then waits for all cores, 7 to 20 ms
    each time, in which a worker would serve nobody.

    Args:
        connections: the most connections that the process will have.
        open_files: the limit on open files.
    """
    highest = min(connections + _RESERVED_FILES, open_files) - 1
    with suppress(OSError):  # If there is no room now, the table grows later as usual.
        file = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, highest))
        finally:
            os.close(file)
