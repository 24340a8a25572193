"""Two hosts and their surroundings, in network namespaces or, if these are unavailable, as groups of processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.faults.nginx import HOSTS_CONFIGURATION, Door, running_nginx_for_hosts
from tests.support.database_proxy import DatabaseProxy, running_database_proxy
from tests.support.gateway import Gateway, base_settings, clean_environment
from tests.support.gateways import Gateways
from tests.support.host_network import HostNetwork, NetworkHost, running_host_network
from tests.support.postgres import Postgres, running_postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.waiting import PATIENCE_S, wait_until

# The advisory lock of migrations/env.py, copied because that module is never imported.
MIGRATION_LOCK = 0x6D696772


class Stage(ABC):
    """Two hosts behind one nginx, and the operations that disturb them.

    Attributes:
        doomed: the gateway of the host that will be killed; its journal is in `doomed_place`.
        other: the gateway of the host that is cut off.
        door: the nginx.
        database_url: the address of the database for the test itself.
        upstream: the provider.
    """

    def __init__(
        self, door: Door, doomed: Gateway, other: Gateway, database_url: str, upstream: ScriptedUpstream, place: Path
    ) -> None:
        self.door, self.doomed, self.other, self.upstream = door, doomed, other, upstream
        self.database_url = database_url
        self.doomed_place, self.other_place = place / "doomed", place / "other"

    @abstractmethod
    def lose_database(self) -> None:
        """Drops everything that the other host sends to the database, without a word to either."""

    @abstractmethod
    def wait_until_lost(self) -> None:
        """Returns once both ends have noticed the loss."""

    @abstractmethod
    def find_database(self) -> None:
        """Lets the other host reach the database again."""


class ProcessStage(Stage):
    """Both hosts are this machine; the other one reaches the database through a proxy."""

    link: DatabaseProxy

    def lose_database(self) -> None:
        """See `Stage`."""
        self.link.freeze()

    def wait_until_lost(self) -> None:
        """See `Stage`. The server cannot notice anything, because the proxy keeps its connections open."""
        wait_until(lambda: "did not answer within" in self.other.log(), what="a time limit")

    def find_database(self) -> None:
        """See `Stage`."""
        self.link.thaw()


class NetworkStage(Stage):
    """Hosts with separate networks; one more runs nginx. PostgreSQL and the provider are on this machine."""

    network: HostNetwork
    server: Postgres
    network_url: str
    other_host: NetworkHost
    nginx_host: NetworkHost

    def lose_database(self) -> None:
        """See `Stage`. A migration is running on the other host then, and waits for one elsewhere to end."""
        self._lock = self.server.connect(self.network_url.rpartition("/")[2])
        self._lock.cursor().execute(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
        migrate = [sys.executable, "-m", "flask", "--app", "wsgi", "db", "upgrade"]
        settings = base_settings(self.other_place, self.network_url)
        self._migration = subprocess.Popen(
            [*self.other_host.command, *migrate],
            cwd=self.other.root,
            env=clean_environment() | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: "pg_advisory_lock" in str(self.sessions()), what="the migration to wait")
        self.other_host.lose(self.network.database_address)

    def wait_until_lost(self) -> None:
        """See `Stage`."""
        address = self.network.database_address
        before = self.other_host.connections(address)
        wait_until(lambda: not before.keys() & self.other_host.connections(address).keys(), what="the host to notice")
        assert self._migration.wait(PATIENCE_S) == 1, "a command that lost the database says so and ends"
        # Now the migration of the vanished host gets the lock.
        self._lock.close()
        wait_until(lambda: not self.sessions(), what="PostgreSQL to end the sessions of the host that is cut off")

    def find_database(self) -> None:
        """See `Stage`."""
        self.other_host.find(self.network.database_address)

    def sessions(self) -> list[tuple[object, ...]]:
        """Returns PostgreSQL's sessions from the other host."""
        sql = f"SELECT pid, state, query FROM pg_stat_activity WHERE client_addr = '{self.other_host.address}'"
        return self.server.execute(sql)

    @contextmanager
    def frozen_other(self) -> Iterator[None]:
        """Stops all processes of the other host; their sockets still receive until they are full."""
        pids = [self.other.pid, *self.other.worker_pids()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


@contextmanager
def process_stage(
    gateways: Gateways, upstream: ScriptedUpstream, database_url: str, settings: Mapping[str, str], place: Path
) -> Iterator[ProcessStage]:
    """Two hosts as groups of processes for the length of a `with` block."""
    for name in ("doomed", "other"):
        (place / name).mkdir()
    own = upstream.settings | dict(settings)
    with (
        running_database_proxy(database_url) as link,
        gateways.running(database_url, own, workers=2, place=place / "doomed") as doomed,
        gateways.running(link.url, own, workers=2, place=place / "other") as other,
        running_nginx_for_hosts((address(doomed), address(other)), place / "nginx") as door,
    ):
        stage = ProcessStage(door, doomed, other, database_url, upstream, place)
        stage.link = link
        yield stage


@contextmanager
def network_stage(
    gateways: Gateways, server_data: Path, settings: Mapping[str, str], place: Path
) -> Iterator[NetworkStage]:
    """Two hosts as network namespaces for the length of a `with` block, with a PostgreSQL that listens on TCP."""
    for name in ("doomed", "other"):
        (place / name).mkdir()
    with running_host_network() as network:
        listens = {"listen_addresses": network.database_address}
        hosts = [network.add(name) for name in ("gateway-1", "gateway-2", "nginx")]
        for name, value in read_kernel_settings():
            hosts[2].set_kernel(name, value)
        # A stopped host's receive buffer is smaller than nginx' send buffer.
        hosts[1].set_kernel("net.ipv4.tcp_rmem", "4096 16384 16384")
        hosts[2].set_kernel("net.ipv4.tcp_wmem", "4096 1000000 4000000")
        with (
            running_postgres(listens, server_data) as server,
            ScriptedUpstream(host=network.address) as upstream,
        ):
            server.admit(f"{network.prefix}.0/24")
            database_url = server.create_migrated_database()
            name = database_url.rpartition("/")[2].partition("?")[0]
            url = f"postgresql+psycopg2://postgres@{network.database_address}/{name}"
            own = upstream.settings | dict(settings)
            with (
                gateways.running(url, own, workers=2, place=place / "doomed", on=hosts[0]) as doomed,
                gateways.running(url, own, workers=2, place=place / "other", on=hosts[1]) as other,
                running_nginx_for_hosts((address(doomed), address(other)), place / "nginx", on=hosts[2]) as door,
            ):
                stage = NetworkStage(door, doomed, other, database_url, upstream, place)
                stage.network, stage.server, stage.network_url = network, server, url
                stage.other_host, stage.nginx_host = hosts[1], hosts[2]
                yield stage
            doomed.stop()
            other.stop()


def address(gateway: Gateway) -> str:
    """Returns the address at which nginx reaches a gateway."""
    return f"{gateway.host}:{gateway.port}"


def read_kernel_settings() -> list[tuple[str, str]]:
    """Returns the kernel parameters that deploy/nginx-hosts.conf requires of nginx' host."""
    found = re.findall(r"\b(tcp_\w+)=(\d+)", HOSTS_CONFIGURATION.read_text())
    return [(f"net.ipv4.{name}", value) for name, value in found]
