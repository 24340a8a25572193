"""The command `python -m app.dev`: the gateway and all its dependencies, in the foreground, until Ctrl-C.

It starts PostgreSQL, the sandbox and gunicorn in this order, and stops them in the reverse order.
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

from app.config import ROOT, Settings, SettingsError, load_settings, read_environment
from app.dev.banner import make_banner
from app.dev.env_file import ensure_gateway_key
from app.dev.postgres import EmbeddedPostgres
from app.dev.processes import Child, RunError, die_with_parent, start_child
from app.dev.sandbox import sandbox_settings, start_sandbox
from app.env_file import read_env_file
from app.run_file import remove_run_file, write_run_file

_VAR = ROOT / "var"
_DATABASE = "gateway"
_FOR_DEVELOPER = {"PUBLIC_STATS": "true", "HOST": "127.0.0.1"}
# gunicorn boots in about a second; a first run that compiles byte code on a slow disk takes several.
_BOOT_TIMEOUT_S = 60.0
# After its own graceful timeout gunicorn needs a moment to kill and reap the workers that did not end.
_GUNICORN_MARGIN_S = 5.0
_WATCH_EVERY_S = 0.2


class _StopRequested(BaseException):
    """A signal requested a stop. Not an Exception, so that handlers of exceptions let it pass."""


class _Supervisor:
    """The running children. The first signal stops them gracefully, a second one quickly.

    Attributes:
        stack: the resources to close at the end, the last entry first.
    """

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self._children: list[Child] = []
        self._is_stopping = False
        self._is_quick = False
        signal.signal(signal.SIGINT, self._handle)
        signal.signal(signal.SIGTERM, self._handle)
        # Under nohup the hang-up signal is ignored, and must stay ignored.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._handle)

    def add(self, child: Child) -> None:
        """Watches `child` from now on, and stops it at the end."""
        self._children.append(child)
        self.stack.callback(child.stop, lambda: self._is_quick)

    def raise_if_over(self) -> None:
        """Raises RunError if a child has ended, and _StopRequested if a signal has requested a stop."""
        if self._is_stopping:  # For example inside a finalizer, the exception raised by the signal is lost.
            raise _StopRequested
        for child in self._children:
            child.raise_if_ended()

    def stop(self) -> None:
        """Stops all children, the one started last first; a signal does not interrupt this."""
        self._is_stopping = True
        self.stack.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._is_stopping:
            self._is_quick = True
            return
        self._is_stopping = True
        raise _StopRequested


def main() -> int:
    """Runs until a signal or a failure.

    Returns:
        The exit code: 0 after a signal, 1 after a failure.
    """
    parser = argparse.ArgumentParser(prog="python -m app.dev", description="The gateway, ready to try.")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the starting process ends")
    if parser.parse_args().die_with_parent:
        die_with_parent()
    supervisor = _Supervisor()
    try:
        _run(supervisor)
    except _StopRequested:
        _print("\nStopping. Press Ctrl-C again to cut off running requests.")
        supervisor.stop()
        _print("Stopped.")
        return 0
    except (RunError, SettingsError) as error:
        supervisor.stop()
        _print(f"make run: {error}", to=sys.stderr)
    except OSError as error:
        supervisor.stop()
        _print(f"make run: {_describe_os_error(error)}", to=sys.stderr)
    finally:
        supervisor.stop()
    return 1


def _describe_os_error(error: OSError) -> str:
    """Returns the failure and its remedy in one sentence; nearly always a file belongs to another user."""
    if error.filename is None:
        return f"The system refused something it needs ({error.strerror or error})."
    return (
        f"{error.filename} cannot be used ({error.strerror}). Run it as the user who owns this directory, on a disk"
        " that can be written and has room."
    )


def _run(supervisor: _Supervisor) -> None:
    supervisor.stack.enter_context(_checkout_lock())
    ensure_gateway_key()
    chosen = _choose_for_developer()
    given = read_environment() | chosen
    _raise_if_unusable(load_settings(given))
    added = chosen | _start_postgres(supervisor, given) | _start_sandbox(supervisor, given)
    settings = load_settings(given | added)
    assert settings.database_url is not None
    _migrate(settings.database_url, is_given=bool(given.get("DATABASE_URL")))
    supervisor.stack.callback(remove_run_file)
    write_run_file(added)
    _start_gunicorn(supervisor, settings, added)
    _wait_until_healthy(supervisor, settings)
    _print(_make_banner_for(settings, added))
    while True:
        supervisor.raise_if_over()
        time.sleep(_WATCH_EVERY_S)


@contextlib.contextmanager
def _checkout_lock() -> Iterator[None]:
    """Holds a lock on the checkout; the kernel releases it when this process ends, in whatever way."""
    _VAR.mkdir(exist_ok=True)
    with open(_VAR / "run.lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunError(f"The gateway already runs in this directory, as process {file.read().strip()}.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _raise_if_unusable(settings: Settings) -> None:
    if not settings.fireworks_api_key and settings.fireworks_base_url != load_settings({}).fireworks_base_url:
        # Without a key the sandbox is started, and would silently replace the given address.
        raise RunError(
            "FIREWORKS_BASE_URL is set, but FIREWORKS_API_KEY is not."
            " Set it too (to any word, if that server needs no key), or unset both to use the sandbox."
        )
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        # As gunicorn does; otherwise the port of a gateway that has just stopped would seem to be in use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise RunError(
                f"Port {settings.port} of {settings.host} cannot be used ({error.strerror}). Stop the program that uses"
                f" it, or choose another port: PORT={settings.port + 1} make run"
            ) from None


def _start_postgres(supervisor: _Supervisor, given: dict[str, str]) -> dict[str, str]:
    """Starts a server unless DATABASE_URL is set; returns the settings that name it."""
    if given.get("DATABASE_URL"):
        return {}
    postgres = EmbeddedPostgres(_VAR / "postgres")
    supervisor.stack.callback(postgres.close)
    supervisor.add(postgres.start())
    return {"DATABASE_URL": postgres.ensure_database(_DATABASE)}


def _start_sandbox(supervisor: _Supervisor, given: dict[str, str]) -> dict[str, str]:
    """Starts the sandbox unless FIREWORKS_API_KEY is set; returns the settings that name it."""
    if given.get("FIREWORKS_API_KEY"):
        return {}
    child, url = start_sandbox(_VAR / "sandbox.log")
    supervisor.add(child)
    return sandbox_settings(url)


def _choose_for_developer() -> dict[str, str]:
    """Returns the settings that differ from production, unless the developer has set them.

    Statistics can be read without a key, and other machines cannot connect.
    """
    # The committed `.env` has production's settings, which are not the developer's choice.
    given = read_env_file(ROOT / ".env.local") | os.environ
    return {name: value for name, value in _FOR_DEVELOPER.items() if not given.get(name)}


def _migrate(database_url: str, *, is_given: bool) -> None:
    # Imported only now, because it takes a while and mistakes in the settings should be reported at once.
    from app.db.schema import SchemaError, upgrade_schema

    try:
        upgrade_schema(database_url)
    except SchemaError as error:
        if not is_given:
            raise RunError(str(error)) from error
        place = "in the environment" if os.environ.get("DATABASE_URL") else "in .env.local or .env"
        raise RunError(
            f"{error}\nDATABASE_URL is set {place}, so the database that it names is used. Start that server, or unset"
            " DATABASE_URL, and make run starts its own PostgreSQL."
        ) from error


def _start_gunicorn(supervisor: _Supervisor, settings: Settings, added: dict[str, str]) -> None:
    child = start_child(
        "gunicorn",
        [sys.executable, "-m", "gunicorn", "wsgi:app"],
        # gunicorn itself reads WEB_CONCURRENCY, and an empty one is a traceback there; for the gateway it is unset.
        environment={name: value for name, value in os.environ.items() if value.strip()}
        | added
        | {"PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
        grace_s=settings.graceful_timeout_s + _GUNICORN_MARGIN_S,
    )
    supervisor.add(child)


def _wait_until_healthy(supervisor: _Supervisor, settings: Settings) -> None:
    deadline_s = time.monotonic() + _BOOT_TIMEOUT_S
    # A server that listens on all addresses is reached at the loopback address.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    while not _is_healthy(host, settings.port):
        supervisor.raise_if_over()
        if time.monotonic() > deadline_s:
            raise RunError(f"gunicorn did not respond within {_BOOT_TIMEOUT_S:g} s; its output is above.")
        time.sleep(0.05)


def _is_healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _make_banner_for(settings: Settings, added: dict[str, str]) -> str:
    # A key from the process environment is not printed; the developer's shell inserts it.
    key = "$GATEWAY_API_KEY" if os.environ.get("GATEWAY_API_KEY") else settings.gateway_api_key[0]
    token = _make_link_token(settings)
    return make_banner(
        settings.host,
        settings.port,
        str(key),
        fireworks_url=None if "FIREWORKS_API_KEY" in added else settings.fireworks_base_url,
        database_url=added.get("DATABASE_URL"),
        token=token,
    )


def _make_link_token(settings: Settings) -> str:
    from app.runtime import use_settings  # Imported only now, as above.
    from app.services.sessions import create_link

    use_settings(settings)
    try:
        return create_link(settings.gateway_api_key[0])
    finally:
        use_settings(None)


def _print(text: str, to: TextIO | None = None) -> None:
    # If the terminal was closed, printing fails, but stopping must continue.
    with contextlib.suppress(OSError):
        print(text, file=to or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
