"""Fixtures shared by the tests: a database server, a sandbox, a scripted upstream, and gateways in front of them."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import settings as hypothesis_settings

from app.config import load_settings
from app.runtime import use_settings
from tests.sandbox.client import run_sandbox
from tests.support.application import use_application
from tests.support.distribution import Distribution, sort_key_of
from tests.support.gateway import Gateway, base_settings
from tests.support.gateways import Gateways
from tests.support.postgres import Postgres, make_data, running_postgres
from tests.support.sandbox import Sandbox
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import examples, skip_soak_only
from tests.support.tls_server import make_certificate
from tests.support.tree import copy_tree

MakeGateway = Callable[..., Gateway]

# Off until all tests are collected: loaded modules stay, and examining them repeatedly would take a sixth of that time.
gc.disable()

# No deadline: an example takes long only on a busy machine. Excessive costs are measured in CPU time (tests/soak).
hypothesis_settings.register_profile("gateway", deadline=None, max_examples=examples(100))
hypothesis_settings.load_profile("gateway")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, keeping the order within each, and skips tests that only `make soak` runs."""
    skip_soak_only(items)
    items.sort(key=lambda item: sort_key_of(item.nodeid))


def pytest_collection_finish() -> None:
    """Makes garbage collections rare and exempts all loaded objects, which saves a twentieth of the time."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(5_000, 20, 10)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Distribution:
    """Keeps files together that share expensive fixtures."""
    return Distribution(config, log)


@pytest.fixture(autouse=True, scope="module")
def _no_runtime_is_left() -> Iterator[None]:
    """Removes the state that a test file leaves in this process, so that no file depends on another."""
    yield
    use_settings(None)


@pytest.fixture(scope="session")
def server_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initial data directory of every server of a test run, in all processes of the run."""
    place = tmp_path_factory.getbasetemp()
    return make_data((place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "postgres")


@pytest.fixture(scope="session")
def postgres(server_data: Path) -> Iterator[Postgres]:
    """The database server of a test process."""
    with running_postgres(data=server_data) as server:
        yield server


@pytest.fixture(scope="session")
def victim(server_data: Path) -> Iterator[Postgres]:
    """A second database server, which tests may stop, kill and freeze; see `victim_url`."""
    with running_postgres(data=server_data) as server:
        yield server


@pytest.fixture(scope="module")
def victim_url(victim: Postgres) -> Iterator[str]:
    """The address of a migrated database on `victim` for the tests of a file, after which the server is up again."""
    url = victim.create_migrated_database()
    yield url
    victim.resume()
    if victim.pid is None:
        victim.start()
    victim.drop_database(url)


@pytest.fixture(scope="session")
def migrated_template(postgres: Postgres) -> str:
    """The name of a database with the current schema, to copy from."""
    return postgres.get_migrated()


@pytest.fixture(scope="session")
def gateways(postgres: Postgres, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """Starts gateways, and stops them concurrently."""
    gateways = Gateways(tree, tmp_path_factory.mktemp)
    yield gateways
    gateways.close()


@pytest.fixture
def database_url(postgres: Postgres, gateways: Gateways) -> Iterator[str]:
    """The address of a fresh, migrated database for one test."""
    url = postgres.create_migrated_database()
    yield url
    gateways.after_stops(lambda: postgres.drop_database(url))


@pytest.fixture(scope="session")
def session_database_url(postgres: Postgres) -> str:
    """The address of the database of the gateways that all tests share."""
    return postgres.create_migrated_database()


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """The sandbox of a test process, which sends ten times as fast as by default."""
    with run_sandbox("--pace-ms", "2", "--die-with-parent") as server:
        yield Sandbox(server.url)


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[ScriptedUpstream]:
    """The scripted upstream behind `scripted_gateway`; tests use `upstream`, the same one with clean scripts."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(shared_upstream: ScriptedUpstream, request: pytest.FixtureRequest) -> ScriptedUpstream:
    """A scripted upstream without scripts and without memory of earlier tests."""
    shared_upstream.reset_scripts()
    shared_upstream.queues_lists = "scripted_gateway" not in request.fixturenames
    return shared_upstream


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    try:
        return make_certificate(tmp_path_factory.mktemp("tls"))
    except FileNotFoundError:
        pytest.skip("openssl is not on the PATH, and a certificate is needed to speak TLS")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project that gateways run from."""
    return copy_tree(tmp_path_factory.mktemp("tree") / "gateway")


@pytest.fixture(scope="session")
def gateway(gateways: Gateways, session_database_url: str, sandbox: Sandbox) -> Iterator[Gateway]:
    """The gateway in front of the sandbox that all tests share; its key is `GATEWAY_KEY`."""
    with gateways.running(session_database_url, sandbox.settings) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def scripted_gateway(
    gateways: Gateways, session_database_url: str, shared_upstream: ScriptedUpstream
) -> Iterator[Gateway]:
    """The gateway in front of the scripted upstream that all tests share; see `upstream`."""
    with gateways.running(session_database_url, shared_upstream.settings) as gateway:
        yield gateway


@pytest.fixture
def make_gateway(gateways: Gateways, database_url: str) -> Iterator[MakeGateway]:
    """A function `(settings={}, workers=1)` that starts a gateway for one test, on the test's own database."""
    with ExitStack() as stack:

        def make(settings: Mapping[str, str] | None = None, workers: int = 1) -> Gateway:
            return stack.enter_context(gateways.running(database_url, settings or {}, workers=workers))

        yield make


@pytest.fixture
def client(database_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[FlaskClient]:
    """Flask's client for an application in this process, in front of the sandbox, without background work."""
    app = use_application(load_settings(base_settings(tmp_path, database_url) | sandbox.settings))
    yield app.test_client()
    use_settings(None)
