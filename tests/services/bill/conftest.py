"""Fixtures shared by the tests of bills: a database with the records of a month, and settings that name the sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from app.config import load_settings
from app.db import get_engine
from app.runtime import use_settings
from tests.services.bill.month import insert_month
from tests.support.postgres import Postgres
from tests.support.sandbox import Sandbox


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> Iterator[str]:
    """The address of a database with the month; each test fetches the bill again."""
    address = postgres.create_migrated_database()
    yield address
    postgres.drop_database(address)


@pytest.fixture(scope="module")
def entries(url: str) -> Iterator[list[dict[str, object]]]:
    """The provider's billing entries of the month that is recorded in the database."""
    use_settings(load_settings({"DATABASE_URL": url}))
    yield insert_month(get_engine())
    use_settings(None)


@pytest.fixture
def engine(url: str, entries: list[dict[str, object]], sandbox: Sandbox) -> Iterator[Engine]:
    """The engine of this process, whose settings name the sandbox."""
    use_settings(load_settings({"DATABASE_URL": url, **sandbox.settings}))
    engine = get_engine()
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE bill_day, bill_line, bill_run"))
    yield engine
    use_settings(None)
