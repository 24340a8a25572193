"""How gunicorn runs the gateway; it finds this file by itself, so `gunicorn wsgi:app` is the production start.

The main process loads nothing of the gateway but its settings. Each worker patches the standard library for gevent
after the fork, and whatever was imported before that keeps locks that stop all greenlets, and an `ssl` that recurses.
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

# Workers add up their metrics in files here; a path of its own for each port, so that two gateways do not mix.
os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(ROOT / "var" / "metrics" / str(settings.port)))

bind = f"0.0.0.0:{settings.port}"
workers = settings.web_concurrency
# A thousand live streams per core need a greenlet each, not a thread: half the memory and twice the events.
worker_class = "app.server.worker_class.GatewayWorker"
# Connections, idle ones too. Live requests are bounded by MAX_LIVE_REQUESTS with an answer that says so; at this
# bound gunicorn stops accepting, which a caller sees as silence, so it stands well above.
worker_connections = settings.max_live_requests * 2 + 1_000
# Pending connections while a worker restarts; the kernel caps it at net.core.somaxconn.
backlog = 4_096
# Must outlast the idle time of whatever pools connections to us (nginx 60 s, Heroku's router 90 s), or requests are
# sent into connections that are just closing.
keepalive = 100
# The worker's heartbeat comes from its main greenlet, so this only catches a process that hangs in C code. It may not
# be shorter than the graceful timeout, during which heartbeats go on.
timeout = int(max(60, settings.graceful_timeout_s + 5))
graceful_timeout = int(settings.graceful_timeout_s)
# The heartbeat file is touched every second; on a busy disk that would stall the worker.
worker_tmp_dir = "/dev/shm" if sys.platform == "linux" else None
# gunicorn's control socket is a second way to stop us, in the home directory by default.
control_socket_disable = True
# Our own log has one line a request; gunicorn's would be a second one, and knows nothing of tokens.
accesslog = None
errorlog = "-"
loglevel = "warning"
# Bounds on what is read before a key is checked. Heads of real requests are 1 to 4 KB.
limit_request_line = 4_094
limit_request_fields = 100
limit_request_field_size = 8_190


def on_starting(server: Any) -> None:
    """Refuses to boot with one sentence when a setting is missing or the schema is not migrated."""
    if server.cfg.is_ssl:
        # Events are written to the client's socket itself, and looks at whether it is there are taken at it.
        sys.exit(
            "The gateway cannot start: it speaks plain HTTP; leave TLS to nginx (deploy/nginx.conf), not to certfile."
        )
    Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).mkdir(parents=True, exist_ok=True)
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db"):
        file.unlink()  # Counts of an earlier start; Prometheus expects a restart to begin at zero.
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
    """Lets libpq wait on gevent's loop; without it one slow query stops every request of the worker."""
    # Until gunicorn sets its own, a second from here, the main process's handlers are in place: they put a signal into
    # a queue that nobody reads here, and the main process, which sends it once, would wait for the graceful timeout.
    signal.signal(signal.SIGTERM, worker.handle_exit)
    signal.signal(signal.SIGQUIT, worker.handle_exit)
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()


def post_worker_init(worker: Any) -> None:
    """Starts what runs beside the requests."""
    from app.server.lifecycle import start_worker

    start_worker(worker)


def child_exit(server: Any, worker: Any) -> None:
    """Takes a worker that is gone, however it went, out of the gauges; its counts stay in the sums."""
    for file in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"gauge_live*_{worker.pid}.db"):
        file.unlink(missing_ok=True)


def worker_exit(server: Any, worker: Any) -> None:
    """Ships what can still be shipped; the rest stays in the journal for the next worker."""
    from app.server.lifecycle import stop_worker

    stop_worker()
