"""gunicorn's settings for the gateway. gunicorn finds this file by itself: `gunicorn wsgi:app` starts production.

The main process imports nothing of the gateway but its settings. Each worker patches the standard library for gevent
after the fork; a module imported before that would keep unpatched locks, which block all greenlets, and an `ssl` that
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
# A thousand live streams per core need a greenlet each, not a thread: half the memory and twice the events.
worker_class = "app.server.worker_class.GatewayWorker"
# Connections, idle ones included. Above MAX_LIVE_REQUESTS a request gets an error response that says so. Above this
# bound gunicorn stops accepting, which callers see as silence, so it is much higher.
worker_connections = settings.max_live_requests * 2 + 1_000
# Pending connections while a worker restarts; the kernel caps it at net.core.somaxconn.
backlog = 4_096
# Longer than proxies keep their idle connections to us (nginx 60 s, Heroku's router 90 s); otherwise they would send
# requests on connections that are just being closed.
keepalive = 100
# The worker's heartbeat comes from its main greenlet, so this only catches a process that hangs in C code. It must not
# be shorter than the graceful timeout, during which heartbeats continue.
timeout = int(max(60, settings.graceful_timeout_s + 5))
graceful_timeout = int(settings.graceful_timeout_s)
# The heartbeat file is touched every second; on a busy disk that would stall the worker.
worker_tmp_dir = "/dev/shm" if sys.platform == "linux" else None
# gunicorn's control socket would be a second way to stop the gateway, and is in the home directory by default.
control_socket_disable = True
# The gateway's own log has a line for each request, with its tokens; gunicorn's would be a second one.
accesslog = None
errorlog = "-"
loglevel = "warning"
# Limits on what is read before a key is checked. Heads of real requests have 1 to 4 KB.
limit_request_line = 4_094
limit_request_fields = 100
limit_request_field_size = 8_190


def on_starting(server: Any) -> None:
    """Refuses to boot with one sentence when a setting is missing or the schema is not migrated."""
    if server.cfg.is_ssl:
        # The relay writes events to the client's plain socket and looks at it to notice a disconnect.
        sys.exit(
            "The gateway cannot start: it speaks plain HTTP; leave TLS to nginx (deploy/nginx.conf), not to certfile."
        )
    Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(parents=True, exist_ok=True)
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
        file.unlink()  # Counts of an earlier start; Prometheus expects counters to start at zero.
    child = os.fork()  # The check needs the database's libraries, which this process must not load.
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
    # gunicorn sets the worker's signal handlers only about a second from now. Until then those of the main process are
    # in place. They put a signal into a queue that no worker reads, and the main process sends it only once, so it
    # would wait for the graceful timeout.
    signal.signal(signal.SIGTERM, worker.handle_exit)
    signal.signal(signal.SIGQUIT, worker.handle_exit)
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()


def post_worker_init(worker: Any) -> None:
    """Starts the journal, the background threads and the drain's signal handler."""
    from app.server.lifecycle import start_worker

    start_worker(worker)


def child_exit(server: Any, worker: Any) -> None:
    """Removes the gauges of a worker that has ended, however it ended; its counters stay in the sums."""
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"gauge_live*_{worker.pid}.db"):
        file.unlink(missing_ok=True)


def worker_exit(server: Any, worker: Any) -> None:
    """Ships what can still be shipped of the journal; the next worker adopts the rest."""
    from app.server.lifecycle import stop_worker

    stop_worker()
