"""The processes of a benchmark: the provider, PostgreSQL and the measured servers, each started when it is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from app.config import ROOT
from app.dev import EmbeddedPostgres, start_sandbox
from benchmarks import peers, proxies
from benchmarks.gateways import Gateway, copy_tree, prepare_database, start_gateway
from benchmarks.interpreters import get_interpreter_of, make_environment
from benchmarks.machine import CannotRun, Cores, choose_cores, get_process_tree
from benchmarks.native import Load, LoadRun, compile_native, start_upstream
from benchmarks.peers import Peer
from benchmarks.results import BARE, COMPILED, ELSEWHERE, GATEWAY, OTHER

# After a load the gateway still closes its streams and ships its records, which must not slow down the next load.
SETTLE_S = 1.0
# The paths of app/sandbox/providers.py.
_SANDBOX_PATHS = {
    "FIREWORKS": "/inference/v1",
    "FEATHERLESS": "/featherless/v1",
    "DEEPINFRA": "/deepinfra/v1/openai",
    "CHUTES": "/chutes/v1",
}


@dataclass(frozen=True)
class Options:
    """The options of the command.

    Attributes:
        quick: shorter measurements, fewer repeats.
        peers: the names of the servers to compare with.
        against: another checkout, measured beside this one, on the interpreter of its own `.venv`.
        python: another interpreter, on which the gateway and the bare route are measured too.
        idle_postgres: whether PostgreSQL runs at idle priority, so that the load generator and the provider never wait
            for it on the core that they share. The records may then be shipped late.
    """

    quick: bool = False
    peers: tuple[str, ...] = ("nginx",)
    against: Path | None = None
    python: Path | None = None
    idle_postgres: bool = False


class Stage:
    """The processes of one run; leaving the `with` block ends them."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.cores: Cores = choose_cores()
        self.place = ROOT / "var" / "bench" / "run"
        self.skipped: dict[str, str] = {}
        self.repeat = 1
        self._stack = ExitStack()
        self._peers: dict[str, Peer] = {}
        self._gateways: dict[str, Gateway] = {}

    def __enter__(self) -> Stage:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        os.sched_setaffinity(0, {self.cores.rest})  # Processes without a core of their own run there too.
        try:
            compile_native(self.place)
            upstream, self.upstream_port = start_upstream(self.place, self.cores.rest)
            self._stack.callback(upstream.stop)
            self._start_postgres()
            self.tree = self.place / "tree"
            copy_tree(ROOT, self.tree)
            self.key = prepare_database(self.tree, self.database_url)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start_postgres(self) -> None:
        # A run has about a dozen gateways with up to six connections for each worker, and processes with 64 more.
        self.server = EmbeddedPostgres(self.place / "postgres", settings={"max_connections": "300"})
        self._stack.callback(self.server.close)
        server = self.server.start().process
        if self.options.idle_postgres:
            for pid in get_process_tree(server.pid):
                os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))  # Later processes inherit it.
        self.database_url = self.server.ensure_database("gateway")

    def settings(self, base_url: str | None = None) -> dict[str, str]:
        """Returns the settings of a gateway: PostgreSQL, and the provider at `base_url`, by default the run's own."""
        return {
            "DATABASE_URL": self.database_url,
            "FIREWORKS_API_KEY": "fw_REPLACE_ME",
            "FIREWORKS_BASE_URL": base_url or f"http://127.0.0.1:{self.upstream_port}/inference/v1",
            "COMPILED_EVENTS": "false",
        }

    def start_gateway(
        self,
        name: str,
        *,
        settings: Mapping[str, str] | None = None,
        cores: Sequence[int] = (),
        workers: int = 1,
        application: str = "wsgi:app",
        tree: Path | None = None,
        python: str = sys.executable,
    ) -> Gateway:
        """Starts a gateway, by default on the core of the measured process; it ends with the run."""
        gateway = start_gateway(
            tree or self.tree,
            self.place / name,
            settings or self.settings(),
            cores=cores or [self.cores.subject],
            workers=workers,
            application=application,
            python=python,
        )
        self._stack.callback(gateway.child.stop)
        return gateway

    def get_gateway(self, name: str) -> Gateway:
        """Returns the gateway called `name`, started if it is not running; see `_GATEWAYS`."""
        if name not in self._gateways:
            self._gateways[name] = _GATEWAYS[name](self)
        return self._gateways[name]

    def get_peer(self, name: str) -> Peer | None:
        """Returns a subject by its name in tables, started if it is not running; None if it cannot be started."""
        if name in self.skipped:
            return None
        if name not in self._peers:
            try:
                self._peers[name] = self._start_peer(name)
            except (CannotRun, subprocess.CalledProcessError) as error:
                self.skipped[name] = str(error)
                print(f"{name} is left out: {error}", flush=True)
                return None
        return self._peers[name]

    def _start_peer(self, name: str) -> Peer:
        if name in _GATEWAYS:
            gateway = self.get_gateway(name)
            return Peer(name, gateway.port, {"Authorization": f"Bearer {self.key}"}, gateway.child)
        if name == "direct":
            return Peer(name, self.upstream_port)
        core, upstream = self.cores.subject, self.upstream_port
        start: dict[str, Callable[[], Peer]] = {
            BARE: lambda: peers.start_bare_flask(self.place, core, ROOT),
            BARE + ELSEWHERE: lambda: peers.start_bare_flask(self.place, core, ROOT, self.other_python()),
            "nginx": lambda: proxies.start_nginx(self.place / "nginx", core, upstream),
            "Envoy": lambda: proxies.start_envoy(self.place, core, upstream),
            "LiteLLM": lambda: peers.start_litellm(self.place, core, upstream),
            "Portkey": lambda: peers.start_portkey(self.place, core, upstream),
        }
        peer = start[name]()
        assert peer.child is not None
        self._stack.callback(peer.child.stop)
        return peer

    def tls_settings(self) -> dict[str, str]:
        """Returns the settings of a gateway whose provider is reached over TLS, through nginx on the core of the load.

        Raises:
            CannotRun: nginx or openssl is missing.
        """
        if not hasattr(self, "_tls_front"):
            self._certificate = proxies.make_certificate(self.place)
            place = self.place / "nginx-tls"
            self._tls_front = proxies.start_nginx(place, self.cores.rest, self.upstream_port, self._certificate)
            assert self._tls_front.child is not None
            self._stack.callback(self._tls_front.child.stop)
            time.sleep(0.5)
        url = f"https://localhost:{self._tls_front.port}/inference/v1"
        return self.settings(url) | {"SSL_CERT_FILE": str(self._certificate)}

    def catalog_settings(self) -> dict[str, str]:
        """Returns the settings of a gateway with all four providers, played by the sandbox with its full lists."""
        if not hasattr(self, "_sandbox_url"):
            child, self._sandbox_url = start_sandbox(self.place / "sandbox.log")
            self._stack.callback(child.stop)
        settings = self.settings()
        for name, path in _SANDBOX_PATHS.items():
            settings |= {f"{name}_API_KEY": "sandbox", f"{name}_BASE_URL": self._sandbox_url + path}
        return settings

    def start_other(self, name: str, settings: Mapping[str, str] | None = None) -> Gateway:
        """Starts a gateway from the other checkout."""
        assert self.options.against is not None
        tree = self.place / "other-tree"
        if not tree.exists():
            copy_tree(self.options.against, tree)
        python = get_interpreter_of(self.options.against)
        return self.start_gateway(name, settings=settings, tree=tree, python=python)

    def other_python(self) -> str:
        """Returns the interpreter of --python, with the gateway's packages."""
        assert self.options.python is not None
        return make_environment(self.options.python, ROOT, self.place.parent)

    def in_turn(self, names: Iterable[str]) -> list[str]:
        """Returns the names, in reverse order in every second repeat.

        So changes on the machine in the course of a repeat do not always affect the same subjects.
        """
        return list(names)[:: 1 if self.repeat % 2 else -1]

    def run_load(self, load: Load) -> LoadRun:
        """Starts a load generator."""
        return LoadRun(self.place, self.cores.rest, load)


_GATEWAYS: dict[str, Callable[[Stage], Gateway]] = {
    GATEWAY: lambda stage: stage.start_gateway("gateway"),
    COMPILED: lambda stage: stage.start_gateway("compiled", settings=stage.settings() | {"COMPILED_EVENTS": "true"}),
    "gateway, provider over TLS": lambda stage: stage.start_gateway("tls", settings=stage.tls_settings()),
    # Separate processes, so that neither has served anything else before.
    "gateway, recording": lambda stage: stage.start_gateway("recorded"),
    "gateway, not recording": lambda stage: stage.start_gateway("unrecorded", application="benchmarks.unrecorded:app"),
    # A separate gateway, because the clock in its event loop takes CPU time.
    "gateway, with a clock": lambda stage: stage.start_gateway("turns", application="benchmarks.turns:app"),
    "relay, unparsed": lambda stage: stage.start_gateway("relay", application="benchmarks.relay:app"),
    "gateway, one worker, any core": lambda stage: stage.start_gateway("one", cores=stage.cores.both),
    "gateway, two workers, any core": lambda stage: stage.start_gateway("two", cores=stage.cores.both, workers=2),
    "gateway, four catalogs": lambda stage: stage.start_gateway("catalogs", settings=stage.catalog_settings()),
    OTHER: lambda stage: stage.start_other("other"),
    GATEWAY + ELSEWHERE: lambda stage: stage.start_gateway("elsewhere", python=stage.other_python()),
}
