"""Fixtures of the database tests: an engine on a fresh, migrated database, and a server that tests may stop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from app.db.engine import create_engine_for
from app.db.schema import upgrade_schema
from tests.support.postgres import Postgres, running_postgres


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine with the gateway's pool and limits on the test's database."""
    engine = create_engine_for(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def file_engine(postgres: Postgres, migrated_template: str) -> Iterator[Engine]:
    """The same on one database for all tests of a file."""
    url = postgres.create_database(template=migrated_template)
    engine = create_engine_for(url)
    yield engine
    engine.dispose()
    postgres.drop_database(url)


@pytest.fixture(scope="session")
def victim() -> Iterator[Postgres]:
    """A second server, to stop, kill and freeze. The first one serves the gateways that tests share."""
    with running_postgres() as server:
        upgrade_schema(server.url)
        yield server


@pytest.fixture
def victim_engine(victim: Postgres) -> Iterator[Engine]:
    """An engine on the victim's one database, which is migrated."""
    engine = create_engine_for(victim.url)
    yield engine
    engine.dispose()
