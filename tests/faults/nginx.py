"""Runs the real nginx with a file of deploy/ in front of gateways, on a free port and in a directory of the test."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.dev import start_child
from tests.support.gateway import GATEWAY_KEY, Gateway, free_port
from tests.support.host_network import NetworkHost
from tests.support.tree import ROOT
from tests.support.waiting import wait_until

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
# The configuration for two hosts, and their addresses in it.
HOSTS_CONFIGURATION = ROOT / "deploy" / "nginx-hosts.conf"
HOSTS = ("10.0.0.1:8000", "10.0.0.2:8000")
NO_NGINX = "" if shutil.which("nginx") else "nginx is not on PATH, so what stands behind it is not tested"


@dataclass(frozen=True)
class Door:
    """An address of a gateway: its own port, or that of the nginx in front of it.

    Attributes:
        name: "direct" or "nginx".
        key: the gateway's key.
        host: the address of the machine that it is on.
    """

    name: str
    port: int
    key: str
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """The address of the door."""
        return f"http://{self.host}:{self.port}"


@contextmanager
def doors_of(gateway: Gateway, place: Path, changes: Mapping[str, str] = {}) -> Iterator[list[Door]]:
    """The doors of a gateway for the length of a `with` block: its own port and, where it is installed, nginx."""
    if NO_NGINX:
        yield [direct(gateway)]
        return
    with running_nginx(gateway, place, changes) as behind:
        yield [direct(gateway), behind]


def direct(gateway: Gateway) -> Door:
    """Returns the gateway's own door."""
    return Door("direct", gateway.port, gateway.key)


@contextmanager
def running_nginx(gateway: Gateway, place: Path, changes: Mapping[str, str] = {}) -> Iterator[Door]:
    """nginx in front of a gateway for the length of a `with` block.

    Args:
        gateway: the gateway to which it passes requests.
        place: an empty directory for its configuration, logs and files.
        changes: text that must be in deploy/nginx.conf → its replacement, such as shorter timeouts.
    """
    own = {"server 127.0.0.1:8000 ": f"server 127.0.0.1:{gateway.port} "}
    with _running(CONFIGURATION, place, own | dict(changes), gateway.key) as door:
        yield door


@contextmanager
def running_nginx_for_hosts(
    addresses: tuple[str, str],
    place: Path,
    changes: Mapping[str, str] = {},
    key: str = GATEWAY_KEY,
    on: NetworkHost | None = None,
) -> Iterator[Door]:
    """nginx in front of two hosts, as `running_nginx`, with deploy/nginx-hosts.conf.

    Args:
        addresses: of the hosts, such as 127.0.0.1:4711.
        key: the key of their gateways.
        on: the host that it runs on, if that is not this machine.
    """
    own = dict(zip(HOSTS, addresses, strict=True))
    with _running(HOSTS_CONFIGURATION, place, own | dict(changes), key, on) as door:
        yield door


@contextmanager
def _running(
    file: Path, place: Path, changes: Mapping[str, str], key: str, on: NetworkHost | None = None
) -> Iterator[Door]:
    place.mkdir(parents=True, exist_ok=True)
    door = Door("nginx", free_port(), key, on.address if on else "127.0.0.1")
    configuration = place / "nginx.conf"
    configuration.write_text(_configuration(file, place, door, changes))
    command = ["nginx", "-e", str(place / "error.log"), "-c", str(configuration), "-g", "daemon off;"]
    child = start_child("nginx", [*(on.command if on else ()), *command], output=place / "output.log")
    try:
        wait_until(lambda: _listens(door) or child.raise_if_ended(), what=f"nginx to listen: {place}")
        yield door
    finally:
        child.stop()


def _configuration(file: Path, place: Path, door: Door, changes: Mapping[str, str]) -> str:
    own = {
        # If root starts it, it would run as www-data, which may not enter the directory of a test.
        "user www-data;": "user root;" if os.geteuid() == 0 else "",
        "/run/nginx.pid": str(place / "pid"),
        "/var/log/nginx": str(place),
        "worker_processes auto;": "worker_processes 1;",
        "listen 80 default_server;": f"listen {door.host}:{door.port} default_server;",
        "http {\n": "http {\n" + "".join(f"    {kind}_temp_path {place / kind};\n" for kind in _TEMPORARY),
    }
    text = file.read_text()
    for old, new in (own | dict(changes)).items():
        assert text.count(old) >= 1, f"{file.name} has no {old!r}"
        text = text.replace(old, new)
    return text


# The defaults are below /var/lib, where only root may write.
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def _listens(door: Door) -> bool:
    try:
        socket.create_connection((door.host, door.port), timeout=1).close()
        return True
    except OSError:
        return False
