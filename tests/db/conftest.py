"""Fixtures of the database tests: engines on migrated databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from app.db.engine import create_engine_for
from tests.support.postgres import Postgres


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine with the gateway's pool and limits on the test's database."""
    engine = create_engine_for(database_url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def file_engine(postgres: Postgres) -> Iterator[Engine]:
    """An engine of that kind on a database shared by the tests of a file."""
    url = postgres.create_migrated_database()
    engine = create_engine_for(url)
    yield engine
    engine.dispose()
    postgres.drop_database(url)


@pytest.fixture
def victim_engine(victim_url: str) -> Iterator[Engine]:
    """An engine on a migrated database of the server that tests may stop."""
    engine = create_engine_for(victim_url)
    yield engine
    engine.dispose()
