"""A real systemd that runs the units of deploy/, in addition to process 1 of this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from app.config import ROOT
from tests.support.gateway import clean_environment, free_port
from tests.support.waiting import PATIENCE_S, wait_until

_SYSTEMD = Path("/lib/systemd/systemd")
# systemd only runs if /run/systemd/system says that it booted the machine. A mount namespace can have its own /run.
_BOOT = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system /run/user
exec "$0" --user --log-target=console --unit=basic.target
"""
_RUNTIME = "/run/user"


class Systemd:
    """A service manager of its own for the length of a `with` block, with gateway.socket and gateway.service in it.

    Args:
        place: an empty directory.
        root: the copy of the project that the service runs from.
        settings: the environment of the gateway.

    Attributes:
        port: that of gateway.socket.
        log: the file with what the gateway wrote.
    """

    def __init__(self, place: Path, root: Path, settings: Mapping[str, str]) -> None:
        if os.geteuid() != 0 or not _SYSTEMD.exists() or shutil.which("unshare") is None:
            pytest.skip("systemd, unshare and root are needed to run the units")
        self.port, self.log = free_port(), place / "log"
        self._place = place
        units = place / "config" / "systemd" / "user"
        units.mkdir(parents=True)
        for name, changes in {
            "gateway.socket": ["[Socket]", "ListenStream=", f"ListenStream=127.0.0.1:{self.port}"],
            "gateway.service": [
                # Overrides paths that differ in a test, and settings that only a machine's system manager supports.
                "[Service]", "User=", "ProtectSystem=no", "ProtectHome=no", "PrivateTmp=no", "StateDirectory=",
                f"WorkingDirectory={root}", f"StandardOutput=append:{self.log}", f"StandardError=append:{self.log}",
                "ExecStart=", f"ExecStart={sys.executable} -m gunicorn wsgi:app",
                *(f'Environment="{setting}={value.replace("%", "%%")}"' for setting, value in settings.items()),
            ],
        }.items():  # fmt: skip
            shutil.copy(ROOT / "deploy" / name, units / name)
            (units / f"{name}.d").mkdir()
            (units / f"{name}.d" / "test.conf").write_text("\n".join(changes))

    def __enter__(self) -> Systemd:
        environment = clean_environment() | {
            "XDG_RUNTIME_DIR": _RUNTIME, "XDG_CONFIG_HOME": str(self._place / "config"),
        }  # fmt: skip
        with (self._place / "systemd").open("wb") as output:
            command = ["unshare", "--mount", "sh", "-c", _BOOT, str(_SYSTEMD)]
            self._manager = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            # The state is "offline" while the manager cannot be reached.
            wait_until(
                lambda: self._manager.poll() is not None or self._run("is-system-running") not in {"", "offline"},
                what="systemd",
            )
        except BaseException:
            self._end()
            raise
        if self._manager.poll() is not None:
            pytest.skip(f"systemd does not run here: {(self._place / 'systemd').read_text()[-300:]}")
        return self

    def __exit__(self, *error: object) -> None:
        self._run("stop", "gateway.socket", "gateway.service")
        self._end()

    def _end(self) -> None:
        left = psutil.Process(self._manager.pid).children(recursive=True) if self._manager.poll() is None else []
        self._manager.terminate()
        self._manager.wait(PATIENCE_S)
        for process in psutil.wait_procs(left, PATIENCE_S)[1]:
            process.kill()

    def ask(self, *arguments: str) -> str:
        """Runs `systemctl` to its end, and returns its output.

        Raises:
            AssertionError: it failed.
        """
        said = self._run(*arguments)
        if self._code != 0:
            raise AssertionError(f"systemctl {arguments}: {said}\n{self._run('status', 'gateway.service')}")
        return said

    def show(self, name: str) -> str:
        """Returns a property of gateway.service, such as its MainPID."""
        return self.ask("show", "--property", name, "--value", "gateway.service")

    def processes(self) -> list[psutil.Process]:
        """Returns the live processes of the manager, without itself."""
        found = psutil.Process(self._manager.pid).children(recursive=True)
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE and "gunicorn" in " ".join(one.cmdline())]

    def is_port_free(self) -> bool:
        """Returns whether no process listens at the port any more."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                return False
            return True

    def _run(self, *arguments: str) -> str:
        command = ["nsenter", "--mount", f"--target={self._manager.pid}", "systemctl", "--user", *arguments]
        environment = clean_environment() | {"XDG_RUNTIME_DIR": _RUNTIME}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        self._code = done.returncode
        return done.stdout.strip() or (done.stderr.strip() if arguments[0] != "is-system-running" else "")
