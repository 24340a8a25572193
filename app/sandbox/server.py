"""The process that serves the sandbox: gunicorn with one gevent worker on a local port."""

import os
import signal
from collections.abc import Callable
from typing import Any
from wsgiref.types import WSGIApplication

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter


def serve(app: WSGIApplication, port: int, parent_pid: int | None, on_listening: Callable[[int], None]) -> None:
    """Serves `app` on 127.0.0.1 until SIGTERM or SIGINT, then raises SystemExit.

    Args:
        app: the WSGI application.
        port: the port to listen on; 0 lets the system choose.
        parent_pid: makes the server end when this process is no longer the parent; None ignores the parent.
        on_listening: called once with the port, when connections are accepted.
    """
    _SandboxServer(app, port, on_listening).run_with_parent(parent_pid)


def _exit_on_signals(worker: Any) -> None:
    """Makes the worker exit at once: gunicorn's graceful stop would wait for open streams, some of which never end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: os._exit(0))


class _SandboxServer(BaseApplication):  # type: ignore[misc]
    def __init__(self, app: WSGIApplication, port: int, on_listening: Callable[[int], None]) -> None:
        self._app = app
        self._settings = {
            "bind": f"127.0.0.1:{port}",
            "workers": 1,  # The counters are kept in one process.
            "worker_class": "gevent",
            "worker_connections": 10_000,  # A thousand streams must not queue here.
            "keepalive": 75,  # Seconds; longer than a client pauses between two test requests.
            "timeout": 0,  # No watchdog: on a busy machine it would kill a worker that is only slow.
            "graceful_timeout": 2,  # Seconds; only an upper bound, because the worker exits at once.
            "loglevel": "error",
            "control_socket_disable": True,  # Otherwise gunicorn leaves a management socket in the home folder.
            "when_ready": lambda arbiter: on_listening(arbiter.LISTENERS[0].getsockname()[1]),
            "post_worker_init": _exit_on_signals,
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        return self._app

    def run_with_parent(self, parent_pid: int | None) -> None:
        _Arbiter(self, parent_pid).run()


class _Arbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter, which also checks once a second whether its parent still exists.

    It polls instead of using prctl(PR_SET_PDEATHSIG): that signal comes when the *thread* that started the process
    ends, and only on Linux. The worker watches the arbiter in the same way.
    """

    def __init__(self, app: _SandboxServer, parent_pid: int | None) -> None:
        self._parent_pid = parent_pid
        super().__init__(app)

    def murder_workers(self) -> None:
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            raise StopIteration  # Ends the main loop, as gunicorn's SIGTERM handler does.
        super().murder_workers()
