"""What the tests share: one database server, one sandbox, one scripted upstream, and gateways in front of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import load_settings
from app.db.schema import upgrade_schema
from app.runtime import use_settings
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.postgres import Postgres, running_postgres
from tests.support.sandbox import Sandbox, running_sandbox
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.tls_server import make_certificate
from tests.support.tree import copy_tree

MakeGateway = Callable[..., Gateway]

# What takes longest begins first, so that no process is left with a long file while the others have nothing to do.
_LONGEST = (
    "tests/faults/",
    "tests/soak/",
    "tests/test_dev",
    "tests/services/test_shipper",
    "tests/services/test_journal",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first; they keep their order otherwise."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONGEST))


@pytest.fixture(autouse=True, scope="module")
def _no_runtime_is_left() -> Iterator[None]:
    """Takes away the state that a file of tests left in this process, so that no file depends on another."""
    yield
    use_settings(None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The one database server of a test run."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres: Postgres) -> str:
    """The name of a database with the current schema, to copy from: a copy takes a tenth of a migration."""
    url = postgres.create_database()
    upgrade_schema(url)
    return url.rpartition("/")[2].partition("?")[0]


@pytest.fixture
def database_url(postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """The address of a fresh, migrated database for one test."""
    url = postgres.create_database(template=migrated_template)
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def session_database_url(postgres: Postgres, migrated_template: str) -> str:
    """The address of the database of the gateways that all tests share."""
    return postgres.create_database(template=migrated_template)


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The one sandbox of a test run."""
    with running_sandbox(tmp_path_factory.mktemp("sandbox") / "sandbox.log") as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[ScriptedUpstream]:
    """The scripted upstream behind `scripted_gateway`; tests use `upstream`, which is this one with clean scripts."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(shared_upstream: ScriptedUpstream) -> ScriptedUpstream:
    """A scripted upstream without scripts and without memory of earlier tests."""
    shared_upstream.reset_scripts()
    return shared_upstream


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    try:
        return make_certificate(tmp_path_factory.mktemp("tls"))
    except FileNotFoundError:
        pytest.skip("openssl is not on the PATH, and a certificate is needed to speak TLS")


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project that gateways run from."""
    return copy_tree(tmp_path_factory.mktemp("tree") / "gateway")


@pytest.fixture(scope="session")
def gateway(
    tree: Path, session_database_url: str, sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """The gateway in front of the sandbox that all tests share; its key is `GATEWAY_KEY`."""
    place = tmp_path_factory.mktemp("gateway")
    with running_gateway(tree, place, base_settings(place, session_database_url) | sandbox.settings) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def scripted_gateway(
    tree: Path, session_database_url: str, shared_upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """The gateway in front of the scripted upstream that all tests share; see `upstream`."""
    place = tmp_path_factory.mktemp("scripted-gateway")
    fireworks = {"FIREWORKS_BASE_URL": shared_upstream.base_url, "FIREWORKS_API_KEY": "fw_test"}
    with running_gateway(tree, place, base_settings(place, session_database_url) | fireworks) as gateway:
        yield gateway


@pytest.fixture
def make_gateway(tree: Path, tmp_path: Path, database_url: str) -> Iterator[MakeGateway]:
    """A function `(settings={}, workers=1)` that starts a gateway of the test's own on the test's own database."""
    with ExitStack() as stack:

        def make(settings: Mapping[str, str] | None = None, workers: int = 1) -> Gateway:
            place = Path(tempfile.mkdtemp(prefix="gateway-", dir=tmp_path))
            chosen = base_settings(place, database_url) | dict(settings or {})
            return stack.enter_context(running_gateway(tree, place, chosen, workers))

        yield make


@pytest.fixture
def client(database_url: str, sandbox: Sandbox, tmp_path: Path) -> Iterator[FlaskClient]:
    """Flask's client for an application in this process, before the sandbox; what a worker starts does not run."""
    app = create_app(load_settings(base_settings(tmp_path, database_url) | sandbox.settings))
    yield app.test_client()
    use_settings(None)
