"""gunicorn's settings for the gateway. gunicorn finds this file by itself: `gunicorn wsgi:app` starts production.

Of the gateway, the main process imports only the settings. Each worker patches the standard library for gevent after
the fork. A module imported before that would keep unpatched locks, which block all greenlets, and an `ssl` that
recurses.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from app.config import ROOT, SettingsError, load_settings

try:
    settings = load_settings()
except SettingsError as error:
    sys.exit(f"The gateway cannot start: {error}")

# Workers share their metrics through files here. Each port has its own directory, so that two gateways do not mix.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(ROOT / "var" / "metrics" / str(settings.port)))

bind = f"0.0.0.0:{settings.port}"
workers = settings.web_concurrency
# A greenlet and not a thread for each live stream, of which a core has a thousand: half the memory, twice the events.
worker_class = "app.server.worker_class.GatewayWorker"
# The most connections, idle ones included. Above it gunicorn stops accepting, so callers get no response at all. It is
# much higher than MAX_LIVE_REQUESTS, above which a request gets an error response with the reason.
worker_connections = settings.max_live_requests * 2 + 1_000
# The most pending connections while a worker restarts; the kernel caps it at net.core.somaxconn.
backlog = 4_096
# In seconds. Longer than proxies keep their idle connections to the gateway (nginx 60 s, Heroku's router 90 s);
# otherwise they would send requests on connections that are just being closed.
keepalive = 100
# The worker's heartbeat comes from its main greenlet, so this only catches a process that hangs in C code. It must not
# be shorter than the graceful timeout, during which heartbeats continue.
timeout = int(max(60, settings.graceful_timeout_s + 5))
graceful_timeout = int(settings.graceful_timeout_s)
# The heartbeat file is touched every second; on a busy disk that would stall the worker.
worker_tmp_dir = "/dev/shm" if sys.platform == "linux" else None
# Without gunicorn's control socket, a second way to stop the gateway that lies in the home directory by default.
control_socket_disable = True
# No access log: the gateway's own log has a line for each request, with its tokens.
accesslog = None
errorlog = "-"
loglevel = "warning"
# Limits in bytes (and fields) on what is read before the key is checked. Heads of real requests have 1 to 4 KB.
limit_request_line = 4_094
limit_request_fields = 100
limit_request_field_size = 8_190


def on_starting(server: Any) -> None:
    """Exits with one sentence if a setting is missing or the schema is not migrated."""
    if server.cfg.is_ssl:
        # The relay writes events to the client's plain socket and peeks at it to notice a disconnect.
        sys.exit(
            "The gateway cannot start: it serves plain HTTP only. Remove certfile, and let nginx terminate TLS"
            " (deploy/nginx.conf)."
        )
    Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(parents=True, exist_ok=True)
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
        file.unlink()  # Left by an earlier start; Prometheus expects counters to start at zero.
    child = os.fork()  # The check imports the database's libraries, which this process must not import.
    if child == 0:
        from app.server.preflight import find_boot_problem

        reason = find_boot_problem(settings)
        if reason is not None:
            os.write(2, f"The gateway cannot start: {reason}\n".encode())
        os._exit(0 if reason is None else 1)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit(1)


def post_fork(server: Any, worker: Any) -> None:
    """Makes libpq wait in gevent's loop; without it one slow query would stop every request of the worker."""
    # gunicorn sets the worker's signal handlers only about a second from now. Until then the worker has those of the
    # main process, which put a signal into a queue that no worker reads. The main process sends a signal only once, so
    # a stop would take the whole graceful timeout.
    signal.signal(signal.SIGTERM, worker.handle_exit)
    signal.signal(signal.SIGQUIT, worker.handle_exit)
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()


def post_worker_init(worker: Any) -> None:
    """Starts the journal, the background threads and the drain's signal handler."""
    from app.server.lifecycle import start_worker

    start_worker(worker)


def child_exit(server: Any, worker: Any) -> None:
    """Removes the gauges of a worker that has ended or was killed; its counters stay in the sums."""
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"gauge_live*_{worker.pid}.db"):
        file.unlink(missing_ok=True)


def worker_exit(server: Any, worker: Any) -> None:
    """Ships as much of the journal as the graceful timeout allows; another worker adopts the rest."""
    from app.server.lifecycle import stop_worker

    stop_worker()
