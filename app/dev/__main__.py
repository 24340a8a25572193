"""The command `python -m app.dev`: the gateway and all it needs, in the foreground, until Ctrl-C.

In order: a key, PostgreSQL, the migrations, the sandbox, gunicorn; and the other way round at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import TextIO

from dotenv import dotenv_values

from app.config import ROOT, Settings, SettingsError, load_settings, read_environment
from app.dev.banner import make_banner
from app.dev.env_file import ensure_gateway_key
from app.dev.postgres import EmbeddedPostgres
from app.dev.processes import Child, Stopped, die_with_parent, start_child
from app.dev.sandbox import sandbox_settings, start_sandbox

_VAR = ROOT / "var"
# gunicorn boots in about a second; a first run that compiles byte code on a slow disk takes several.
_BOOT_TIMEOUT_S = 60.0
# Beyond its own graceful timeout gunicorn needs a moment to kill and reap what did not end.
_GUNICORN_MARGIN_S = 5.0
_WATCH_EVERY_S = 0.2


class _Interrupted(Exception):
    """A signal asks to stop."""


class _Foreground:
    """What runs, and how a signal ends it: the first one interrupts, later ones ask the stopping to hurry."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.stack = contextlib.ExitStack()
        self._stopping = False
        self._hurry = False
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        # Under nohup a hang-up is ignored, and so it should stay.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._handle)

    def add(self, child: Child) -> None:
        """Watches `child` from now on, and stops it at the end."""
        self.children.append(child)
        self.stack.callback(child.stop, lambda: self._hurry)

    def check(self) -> None:
        """Raises `Stopped` when a child has ended."""
        for child in self.children:
            child.check()

    def stop(self) -> None:
        """Stops all, the last started first; no signal can break it off."""
        self._stopping = True
        self.stack.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._stopping:
            self._hurry = True
            return
        self._stopping = True
        raise _Interrupted


def main() -> int:
    """Runs until a signal or a failure; returns the exit code: 0 after a signal, 1 after a failure."""
    parser = argparse.ArgumentParser(prog="python -m app.dev", description="The gateway, ready to try.")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the starting process ends")
    if parser.parse_args().die_with_parent:
        die_with_parent()
    foreground = _Foreground()
    try:
        _run(foreground)
    except _Interrupted:
        _say("\nStopping; Ctrl-C again breaks off running answers.")
        foreground.stop()
        _say("Stopped.")
        return 0
    except (Stopped, SettingsError) as error:
        foreground.stop()
        _say(f"make run: {error}", to=sys.stderr)
    finally:
        foreground.stop()
    return 1


def _run(foreground: _Foreground) -> None:
    foreground.stack.enter_context(_only_one_here())
    ensure_gateway_key()
    given = read_environment()
    _check(load_settings(given))
    added = _start_postgres(foreground, given) | _start_sandbox(foreground, given) | _open_stats()
    settings = load_settings(given | added)
    assert settings.database_url is not None
    _migrate(settings.database_url)
    _start_gunicorn(foreground, settings, added)
    _wait_until_healthy(foreground, settings.port)
    _say(_banner(settings, added))
    while True:
        foreground.check()
        time.sleep(_WATCH_EVERY_S)


@contextlib.contextmanager
def _only_one_here() -> Iterator[None]:
    """Holds a lock on the checkout; the kernel lets go of it when this process ends, however that happens."""
    _VAR.mkdir(exist_ok=True)
    with open(_VAR / "run.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Stopped(f"It already runs in this directory, as process {file.read().strip()}.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _check(settings: Settings) -> None:
    if not settings.fireworks_api_key and settings.fireworks_base_url != load_settings({}).fireworks_base_url:
        # The sandbox would take its place without a word.
        raise Stopped(
            "FIREWORKS_BASE_URL is set, but FIREWORKS_API_KEY is not."
            " Set it too (to any word, if that server wants none), or unset both to get the sandbox."
        )
    with socket.socket() as probe:
        # As gunicorn does; without it the port of a gateway that has just stopped would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", settings.port))  # noqa: S104
        except OSError as error:
            raise Stopped(
                f"Port {settings.port} cannot be used ({error.strerror}); stop what uses it,"
                f" or choose another: PORT={settings.port + 1} make run"
            ) from None


def _start_postgres(foreground: _Foreground, given: dict[str, str]) -> dict[str, str]:
    if given.get("DATABASE_URL"):
        return {}
    postgres = EmbeddedPostgres(_VAR / "postgres")
    foreground.stack.callback(postgres.close)
    foreground.add(postgres.child)
    return {"DATABASE_URL": postgres.url}


def _start_sandbox(foreground: _Foreground, given: dict[str, str]) -> dict[str, str]:
    if given.get("FIREWORKS_API_KEY"):
        return {}
    child, url = start_sandbox(_VAR / "sandbox.log")
    foreground.add(child)
    return sandbox_settings(url)


def _open_stats() -> dict[str, str]:
    # `.env` says false for production; only what was said for this machine counts against a developer's default.
    said = dotenv_values(ROOT / ".env.local") | os.environ
    return {} if said.get("PUBLIC_STATS") else {"PUBLIC_STATS": "true"}


def _migrate(database_url: str) -> None:
    # Imported only now: it takes a while, and a port in use should be told at once.
    from app.db.schema import SchemaError, upgrade_schema

    try:
        upgrade_schema(database_url)
    except SchemaError as error:
        raise Stopped(str(error)) from error


def _start_gunicorn(foreground: _Foreground, settings: Settings, added: dict[str, str]) -> None:
    child = start_child(
        "gunicorn",
        [sys.executable, "-m", "gunicorn", "wsgi:app"],
        environment=dict(os.environ) | added | {"PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
        grace_s=settings.graceful_timeout_s + _GUNICORN_MARGIN_S,
    )
    foreground.add(child)


def _wait_until_healthy(foreground: _Foreground, port: int) -> None:
    deadline = time.monotonic() + _BOOT_TIMEOUT_S
    while not _is_healthy(port):
        foreground.check()
        if time.monotonic() > deadline:
            raise Stopped(f"gunicorn did not answer within {_BOOT_TIMEOUT_S:g} s; what it said stands above.")
        time.sleep(0.05)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _banner(settings: Settings, added: dict[str, str]) -> str:
    # A key from the process environment is the caller's own secret: the shell fills it in, we do not print it.
    key = "$GATEWAY_API_KEY" if os.environ.get("GATEWAY_API_KEY") else settings.gateway_api_key
    return make_banner(
        settings.port,
        str(key),
        fireworks_url=None if "FIREWORKS_API_KEY" in added else settings.fireworks_base_url,
        database_url=added.get("DATABASE_URL"),
    )


def _say(text: str, to: TextIO | None = None) -> None:
    # After the terminal was closed there is nobody to tell, and the stopping must go on.
    with contextlib.suppress(OSError):
        print(text, file=to or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
