"""gunicorn's settings for the gateway. gunicorn finds this file by itself: `gunicorn wsgi:app` starts production.

Of the gateway, the main process imports only the settings and the code that prepares the start. Each worker patches the
standard library for gevent after the fork. A module imported before that would keep unpatched locks, which block all
greenlets, and an `ssl` that recurses.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if "gunicorn.arbiter" in sys.modules:
    # Until gunicorn has its handlers, a reload signal would end the process. It is blocked; `when_ready` unblocks it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})

if not os.access(Path(__file__).parent / "app", os.R_OK | os.X_OK):
    sys.exit(f"The gateway cannot start: this user may not read its code in {Path(__file__).parent / 'app'}. Allow it.")

from app.config import ROOT, SettingsError, load_settings
from app.server.gunicorn_options import WORKER_CLASS, find_option_mistake
from app.server.life_log import describe_sockets, log_life
from app.server.metrics_directory import Claim, claim_directory
from app.server.open_files import fit_to_open_files, make_room_for_files, raise_open_file_limit
from app.server.reload import OTHER_ADDRESS, adopt_workers, read_changed_settings, read_handover, set_up_reload
from app.server.restart import Predecessors, set_up_handover
from app.server.stop import set_up_stop, stop_while_checking
from app.server.worker_starts import WorkerStarts
from app.speedups import get_speedups

try:
    settings = load_settings()
except SettingsError as error:
    sys.exit(f"The gateway cannot start: {error}")

for name in ("LISTEN_FDS", "LISTEN_PID"):
    if not (value := os.environ.get(name, "0")).isdecimal():
        sys.exit(f"The gateway cannot start: {name} is {value!r}; systemd sets it to a number. Unset it.")

# Workers share their metrics through files in a directory that no other gateway uses; this variable names it.
METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
# Clients whose headers may set the scheme of a request; by default gunicorn trusts this machine. Nobody may set the
# path or its prefix (SCRIPT_NAME): some proxies pass on headers that a client sends under these names.
forwarded_allow_ips = ",".join(map(str, settings.trusted_proxies))
forwarder_headers = ""
workers = settings.web_concurrency
# A greenlet and not a thread for each live stream; a core has a thousand of them: half the memory, twice the events.
worker_class = WORKER_CLASS
# The most connections, including idle ones. Above it gunicorn stops accepting, so callers get no response at all. It is
# much higher than the most live requests, above which a request gets an error response with the reason.
open_files = raise_open_file_limit()
live_requests, worker_connections = fit_to_open_files(settings.max_live_requests, open_files)
# The most pending connections while a worker restarts; the kernel caps it at net.core.somaxconn.
backlog = 4_096
# In seconds. Longer than proxies keep their idle connections to the gateway (nginx 60 s, Heroku's router 90 s);
# otherwise they would send requests on connections that are about to be closed.
keepalive = 100
# The worker's heartbeat comes from its main greenlet, so this only catches a process that hangs in C code. It must not
# be shorter than the graceful timeout, during which heartbeats continue.
timeout = int(max(60, settings.graceful_timeout_s + 5))
graceful_timeout = int(settings.graceful_timeout_s)
# The heartbeat file is touched every second; on a busy disk that would stall the worker. Some containers lack /dev/shm.
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
# Disables gunicorn's control socket, a second way to stop the gateway, which is in the home directory by default.
control_socket_disable = True
# No access log: the gateway's own log has a line for each request, with its tokens.
accesslog = None
errorlog = "-"
logger_class = "app.server.error_log.RedactingLogger"
loglevel = "warning"
# Limits in bytes (and fields) on input that is read before the key is checked. Heads of real requests have 1 to 4 KB.
limit_request_line = 4_094
limit_request_fields = 100
limit_request_field_size = 8_190


# The handover from the process before a reload.
handover = read_handover()
# The file with the workers of earlier main processes, after a restart with RESTART_HANDOVER.
handover_file = settings.journal_dir / f"handover-{settings.port}.json"


def on_starting(server: Any) -> None:
    """Exits with one sentence if the gateway could not serve, for example because the schema is not migrated."""
    if (mistake := find_option_mistake(server.cfg, settings)) is not None:
        sys.exit(f"The gateway cannot start: {mistake}")
    # With inherited sockets there is nothing to bind.
    server.inherits = server.master_pid != 0 or "LISTEN_FDS" in os.environ
    if handover is not None and handover.check:
        _check_for_reload(server)
    server.predecessors = Predecessors(handover_file)
    server.predecessors.tell()
    set_up_stop(server, server.predecessors)
    server.metrics = _claim_metrics_directory()
    if handover is None:  # After a reload all was checked a moment ago, and a gateway that serves must not end of it.
        child = os.fork()  # The check imports the database's libraries, which this process must not import.
        if child == 0:
            os._exit(0 if _is_bootable([] if server.inherits else server.cfg.address) else 1)
        stop_while_checking(server, child)
        if server.predecessors.tell_until_end(child) != 0:  # The check may wait long for the database.
            sys.exit(1)


def _is_bootable(addresses: Sequence[Any], changed: Sequence[str] = ()) -> bool:
    """Runs the checks before the start in a process that ends afterwards; logs why if the gateway cannot start.

    Args:
        addresses: the addresses that must be free to listen on.
        changed: the names of the settings that a reload changes.
    """
    gc.disable()  # As in `post_fork`; the process ends soon.
    from app.server.preflight import find_boot_problem, log_lowered_requests

    reason = find_boot_problem(settings, addresses, changed)
    if reason is not None:
        os.write(2, f"The gateway cannot start: {reason}\n".encode())
    elif live_requests < settings.max_live_requests:
        log_lowered_requests(settings, live_requests, open_files)
    return reason is None


def _check_for_reload(server: Any) -> None:
    """Checks whether this code and these settings may replace the running gateway, and ends this process."""
    assert handover is not None
    addresses = [list(address) if isinstance(address, tuple) else address for address in server.cfg.address]
    listens_elsewhere = not handover.from_systemd and addresses != handover.addresses
    if listens_elsewhere and _get_ports(addresses) & _get_ports(handover.addresses):
        os.write(2, b"HOST has changed and PORT has not, so the port is still in use. Restart the gateway instead.")
        os._exit(1)
    if not _is_bootable(server.cfg.address if listens_elsewhere else [], read_changed_settings(settings)):
        os._exit(1)
    try:
        server.app.load()
    except BaseException as error:
        place = f" in {error.filename}" if isinstance(error, SyntaxError) else ""
        said = f"the code cannot be loaded ({type(error).__name__}: {error}{place}). Correct it, or undo its update."
        os.write(2, said.encode())
        os._exit(1)
    os._exit(OTHER_ADDRESS if listens_elsewhere else 0)


def _get_ports(addresses: Sequence[Any]) -> set[int]:
    return {address[1] for address in addresses if isinstance(address, list)}


def when_ready(server: Any) -> None:
    """Prepares reloads and restarts, and removes the metrics of an earlier start: counters begin at zero.

    Files in a directory that the operator named for several gateways stay.
    """
    is_own = server.metrics.lock is not None
    if is_own and (handover is None or handover.metrics != str(server.metrics.directory)):
        for file in server.metrics.directory.glob("*.db"):
            file.unlink(missing_ok=True)
    from_systemd = server.systemd if handover is None else handover.from_systemd
    claim = server.metrics
    set_up_reload(server, settings, from_systemd=from_systemd, metrics=claim.directory, metrics_lock=claim.lock)
    set_up_handover(server, server.predecessors, may_hand_over=settings.restart_handover and from_systemd)
    log_life(
        "gateway_started",
        listening=describe_sockets(server),
        workers=server.num_workers,
        reloaded=handover is not None,
        events="python" if get_speedups(settings) is None else "compiled",
    )
    if handover is not None:
        adopt_workers(server, handover)
    global starts
    starts = WorkerStarts(server, server.predecessors)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def on_exit(server: Any) -> None:
    """Logs the end; each worker has logged the records that it could not deliver."""
    log_life("gateway_stopped")


def post_fork(server: Any, worker: Any) -> None:
    """Prepares the worker: above all, libpq waits in gevent's loop, or one slow query would stop all requests."""
    # Until `start_worker`: a worker's imports stay, and examining them again and again takes a tenth of its boot.
    gc.disable()
    make_room_for_files(worker_connections + live_requests, open_files)
    worker.others_serve = starts.others_serve
    worker.gateway_stops = server.gateway_stops
    # The files may have changed by now, or have a mistake. A reload reads them, a replacement worker does not.
    worker.settings = replace(settings, max_live_requests=live_requests)
    if live_requests < settings.max_live_requests:
        os.environ["MAX_LIVE_REQUESTS"] = str(live_requests)  # For the comparison of its settings with the files.
    # gunicorn sets the worker's signal handlers only about a second from now. Until then the worker has those of the
    # main process, which put a signal into a queue that no worker reads. The main process sends a signal only once, so
    # a stop would take the whole graceful timeout.
    signal.signal(signal.SIGTERM, worker.handle_exit)
    signal.signal(signal.SIGQUIT, worker.handle_exit)
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()


def _claim_metrics_directory() -> Claim:
    """Creates the directory and sets METRICS_VARIABLE to it."""
    default = ROOT / "var" / "metrics" / str(settings.port)
    wanted = Path(os.environ.get(METRICS_VARIABLE) or default)
    # After gunicorn's USR2 the variable may name the directory of the earlier gateway, which is still running.
    is_default = wanted.parent == default.parent
    held = None if handover is None else Claim(Path(handover.metrics), handover.metrics_lock)
    try:
        claim = claim_directory(default if is_default else wanted, may_move=is_default, held=held)
    except OSError as error:
        sys.exit(
            f"The gateway cannot start: its workers share their metrics in {error.filename}, which cannot be written"
            f" ({error.strerror}). Give it to this user, or set {METRICS_VARIABLE} to another directory."
        )
    os.environ[METRICS_VARIABLE] = str(claim.directory)
    return claim


def post_worker_init(worker: Any) -> None:
    """Starts the journal, the background threads and the drain's signal handler."""
    from app.server.lifecycle import start_worker

    start_worker(worker)
    starts.tell()


def child_exit(server: Any, worker: Any) -> None:
    """Removes the gauges of a worker that has ended or was killed; its counters stay in the sums."""
    for file in Path(os.environ[METRICS_VARIABLE]).glob(f"gauge_live*_{worker.pid}.db"):
        file.unlink(missing_ok=True)


def worker_exit(server: Any, worker: Any) -> None:
    """Ships as much of the journal as the graceful timeout allows; another worker adopts the rest."""
    from app.server.lifecycle import stop_worker

    stop_worker()
    if os.getppid() != worker.ppid:
        child_exit(server, worker)  # The main process of this worker has handed over, and no other one will do this.
