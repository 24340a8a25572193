"""Several hosts on one machine: network namespaces, each with a cable to a switch, and a test may pull any cable.

Linux only, and only as root. The switch is a bridge in a namespace of its own, so no rule of this machine's firewall
applies between the hosts. This machine is on the switch too, with two addresses: one for the test's own servers, one
for PostgreSQL. All names contain the process id of the test, so that the next run can clean up after a killed one.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import psutil

# A network for benchmarks (RFC 2544), which is not routed. A run takes one of its 256 subnets of 254 addresses.
_NETWORK = "198.18"
# An Ethernet address that no host has: packets to it are lost silently.
_NOBODY = "02:00:00:00:00:01"
_NAMESPACE = re.compile(r"gateway-(\d+)-.+")
_LINK = re.compile(r"\bgateway(\d+)\b")


class NetworkHost:
    """A host of a `HostNetwork`, with a network and a host name of its own.

    Attributes:
        name: its host name.
        address: its address, such as 198.18.7.11.
        command: the prefix of commands that run on it.
    """

    def __init__(self, network: HostNetwork, name: str, number: int) -> None:
        self.name = name
        self.address = f"{network.prefix}.{10 + number}"
        self._network = network
        self._namespace = network.make_namespace(name)
        self._port = f"port{number}"
        network.connect(self._port, "eth0", self._namespace)
        _ip("-n", self._namespace, "address", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", self._namespace, "link", "set", link, "up")
        set_name = f'echo {name} > /proc/sys/kernel/hostname && exec "$@"'
        self.command = ["ip", "netns", "exec", self._namespace, "unshare", "--uts", "sh", "-c", set_name, "sh"]

    def pull_cable(self) -> None:
        """Cuts the host off from all others, silently: packets are lost, and connections stay open."""
        self._network.set_port(self._port, "down")

    def plug_cable(self) -> None:
        """Connects the host again."""
        self._network.set_port(self._port, "up")

    def lose(self, address: str) -> None:
        """Drops everything that this host sends to an address; other hosts still reach it."""
        lost = ("lladdr", _NOBODY, "dev", "eth0", "nud", "permanent")
        _ip("-n", self._namespace, "neighbour", "replace", address, *lost)

    def find(self, address: str) -> None:
        """Lets this host reach a lost address again."""
        _ip("-n", self._namespace, "neighbour", "delete", address, "dev", "eth0")

    def set_kernel(self, name: str, value: str) -> None:
        """Sets a parameter of this host's network, such as net.ipv4.tcp_keepalive_time."""
        place = f"/proc/sys/{name.replace('.', '/')}"
        subprocess.run([*self.command, "sh", "-c", f"echo {value} > {place}"], check=True)

    def connections(self, to: str) -> dict[int, int]:
        """Returns the host's established TCP connections to an address: own port → bytes that were not received yet."""
        text = subprocess.run(
            [*self.command, "cat", "/proc/net/tcp"], check=True, capture_output=True, text=True
        ).stdout
        found = {}
        for line in text.splitlines()[1:]:
            _, own, peer, state, queues = line.split()[:5]
            # Addresses are numbers of this machine's byte order, in hexadecimal.
            address = IPv4Address(int.from_bytes(bytes.fromhex(peer.partition(":")[0]), sys.byteorder))
            if str(address) == to and state == "01":
                found[int(own.partition(":")[2], 16)] = int(queues.partition(":")[0], 16)
        return found


class HostNetwork:
    """Hosts around a switch; `running_host_network` makes one.

    Attributes:
        prefix: the beginning of all addresses.
        address: of this machine, for the test's own servers.
        database_address: of this machine too, for PostgreSQL, so that a host can lose only that.
    """

    def __init__(self) -> None:
        taken = _ip("-4", "address").stdout
        numbers = [(os.getpid() + number) % 256 for number in range(256)]
        self.prefix = next(each for number in numbers if f"{(each := f'{_NETWORK}.{number}')}." not in taken)
        self.address, self.database_address = f"{self.prefix}.1", f"{self.prefix}.2"
        self._switch = self.make_namespace("switch")
        _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "bridge", "up")
        link = f"gateway{os.getpid()}"
        self.connect("port0", link, str(os.getpid()))
        for address in (self.address, self.database_address):
            _ip("address", "add", f"{address}/24", "dev", link)
        _ip("link", "set", link, "up")
        self._count = 0

    def add(self, name: str) -> NetworkHost:
        """Returns a new host."""
        self._count += 1
        return NetworkHost(self, name, self._count)

    def make_namespace(self, name: str) -> str:
        """Makes a network namespace, and returns its full name."""
        full = f"gateway-{os.getpid()}-{name}"
        _ip("netns", "add", full)
        return full

    def connect(self, port: str, link: str, namespace: str) -> None:
        """Makes a cable from a new port of the switch to a new link in a namespace, or in that of a process."""
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", link, "netns", namespace)
        _ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")

    def set_port(self, port: str, state: str) -> None:
        """Takes a port of the switch up or down."""
        _ip("-n", self._switch, "link", "set", port, state)


@contextmanager
def running_host_network() -> Iterator[HostNetwork]:
    """A network of hosts for the length of a `with` block, at whose end no process may be running on them."""
    _remove(lambda pid: not psutil.pid_exists(pid))
    try:
        yield HostNetwork()
    finally:
        _remove(lambda pid: pid == os.getpid())


@functools.cache
def why_no_host_network() -> str:
    """Returns why this machine cannot have a network of hosts; "" if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can make network namespaces"
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "ip (iproute2) or unshare is not installed"
    try:
        with running_host_network() as network:
            subprocess.run([*network.add("probe").command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"this machine cannot make network namespaces: {getattr(error, 'stderr', '') or error}"
    return ""


def _remove(is_ours: Callable[[int], bool]) -> None:
    """Removes the namespaces and links of runs whose process ids satisfy `is_ours`; a switch takes its cables along."""
    for namespace in Path("/run/netns").glob("gateway-*"):
        if (found := _NAMESPACE.fullmatch(namespace.name)) and is_ours(int(found[1])):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", namespace.name)
    for found in _LINK.finditer(_ip("link").stdout):
        # The kernel removes them a moment after their switch.
        if is_ours(int(found[1])):
            with suppress(subprocess.CalledProcessError):
                _ip("link", "delete", found[0])


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
