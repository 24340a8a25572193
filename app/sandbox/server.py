"""The process that serves the sandbox: gunicorn with one gevent worker on a local port."""

import os
import signal
from collections.abc import Callable
from typing import Any
from wsgiref.types import WSGIApplication

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter


def serve(app: WSGIApplication, port: int, parent_pid: int | None, on_listening: Callable[[int], None]) -> None:
    """Serve `app` on 127.0.0.1 until SIGTERM or SIGINT; never returns normally but raises SystemExit.

    Port 0 lets the system choose; `on_listening` is called once with the port when connections are accepted.
    With `parent_pid` it also ends when the process of that id is no longer its parent.
    """
    _Sandbox(app, port, on_listening).run_under(parent_pid)


def _end_worker_on_signals(worker: Any) -> None:
    """Replace gunicorn's graceful stop: open streams, some without end, must not delay the end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, lambda *_: os._exit(0))


class _Sandbox(BaseApplication):  # type: ignore[misc]
    def __init__(self, app: WSGIApplication, port: int, on_listening: Callable[[int], None]) -> None:
        self._app = app
        self._settings = {
            "bind": f"127.0.0.1:{port}",
            "workers": 1,  # The counters live in one process.
            "worker_class": "gevent",
            "worker_connections": 10_000,  # A thousand streams through a gateway must not queue here.
            "keepalive": 75,  # Seconds; longer than a client's pool rests between two test requests.
            "timeout": 0,  # No watchdog: on a busy machine it would kill a worker that is only slow.
            "graceful_timeout": 2,  # Seconds; the worker ends at once, this bounds the wait for it.
            "loglevel": "error",
            "control_socket_disable": True,  # Else gunicorn leaves a management socket in the home folder.
            "when_ready": lambda arbiter: on_listening(arbiter.LISTENERS[0].getsockname()[1]),
            "post_worker_init": _end_worker_on_signals,
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        return self._app

    def run_under(self, parent_pid: int | None) -> None:
        _Arbiter(self, parent_pid).run()


class _Arbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's master, which also looks once a second whether its parent still lives.

    Polling is chosen over prctl(PR_SET_PDEATHSIG): that signal comes when the *thread* that started the
    process ends, and it exists on Linux only. The worker watches the master in the same way.
    """

    def __init__(self, app: _Sandbox, parent_pid: int | None) -> None:
        self._parent_pid = parent_pid
        super().__init__(app)

    def murder_workers(self) -> None:
        if self._parent_pid is not None and os.getppid() != self._parent_pid:
            raise StopIteration  # What gunicorn's own SIGTERM handler does to end the main loop.
        super().murder_workers()
