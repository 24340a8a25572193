"""The gateway behind PgBouncer in transaction mode, and with an address of several hosts."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, text

from app import create_app
from app.config import load_settings
from app.db import get_engine
from app.db.engine import create_engine_for
from app.db.partitions import insert_partitions
from app.runtime import use_settings
from tests.support.activity_tables import ActivityTables
from tests.support.answers import chat_answer
from tests.support.chat import PREFIX, post_chat, request
from tests.support.gateway import GatewayDidNotBoot, base_settings, start_gateway
from tests.support.gateways import Gateways
from tests.support.pooler import running_pooler
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def empty_database(postgres: Postgres) -> Iterator[str]:
    """The address of a database without tables, without the pooler."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def pooled_url(empty_database: str) -> Iterator[str]:
    """The address of the same database through PgBouncer."""
    with running_pooler(empty_database) as url:
        yield url


@pytest.fixture
def pooled(pooled_url: str) -> Iterator[Engine]:
    engine = create_engine_for(pooled_url, pooled=True)
    yield engine
    engine.dispose()


def show(engine: Engine, isolation_level: str) -> tuple[str, str, str]:
    with engine.connect().execution_options(isolation_level=isolation_level) as connection:
        one, two, three = (
            str(connection.execute(text(f"SHOW {name}")).scalar_one())
            for name in ("statement_timeout", "timezone", "transaction_isolation")
        )
    return one, two, three


def test_limits_hold_for_each_transaction_and_end_with_it(pooled: Engine, pooled_url: str) -> None:
    assert show(pooled, "REPEATABLE READ") == ("10s", "UTC", "repeatable read")
    assert show(pooled, "AUTOCOMMIT") == ("10s", "UTC", "read committed")
    with pooled.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (SKIP_LOCKED) pg_am"))
    plain = create_engine_for(pooled_url, pooled=True)
    with plain.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("0",), "no session keeps them, whoever gets it next"
        cursor.close()
    plain.dispose()


@soak_only("db/test_pooler.py::test_limits_hold_for_each_transaction_and_end_with_it")
def test_a_gateway_works_behind_the_pooler(
    gateways: Gateways, upstream: ScriptedUpstream, pooled_url: str, empty_database: str, tmp_path: Path, tree: Path
) -> None:
    addresses = {"DATABASE_URL": pooled_url, "DATABASE_DIRECT_URL": empty_database}
    settings = base_settings(tmp_path, pooled_url) | addresses
    run = create_app(load_settings(settings)).test_cli_runner().invoke
    assert "schema current" in run(args=["db", "upgrade"]).output, "the lock of migrations is one of a session"
    made = run(args=["keys", "create", "alice", "--budget", "5M-tokens/month", "--rpm", "600"])
    key = next(word for word in made.output.split() if word.startswith("gw_"))
    upstream.default = chat_answer("hi")
    tables = ActivityTables(empty_database)
    with pytest.raises(GatewayDidNotBoot, match=r"cannot start: DATABASE_URL leads to a pooler .*DATABASE_DIRECT_URL"):
        start_gateway(base_settings(tmp_path, pooled_url), root=tree, log=tmp_path / "log").kill()
    with gateways.running(pooled_url, upstream.settings | addresses, place=tmp_path) as gateway:
        with ThreadPoolExecutor(8) as pool:
            seen = list(pool.map(lambda _: post_chat(gateway, PREFIX + "any", key=key, max_tokens=5), range(40)))
        assert {each.status for each in seen} == {200}
        wait_until(lambda: len(tables.outcomes()) == 40, what="the records")
        report = request("GET", f"{gateway.url}/api/activity/integrity", headers=gateway.headers).json
        assert report["balanced"] and report["limits"]["balanced"] and report["started"] == 40
        assert request("GET", f"{gateway.url}/ready").json["problems"] == {}
    with get_engine().begin() as connection:
        insert_partitions(connection, [date(2024, 1, 5)])
    purged = run(args=["activity", "purge", "--before", "2024-02-01", "--yes"])
    use_settings(None)
    assert "1 days dropped" in purged.output, "a partition is detached in transactions of its own"


def test_an_address_may_name_several_hosts(postgres: Postgres, victim: Postgres, database_url: str) -> None:
    path, _, query = database_url.partition("?host=")
    name = path.rpartition("/")[2]
    standby = victim.url.partition("?host=")[2]
    victim.execute(f'CREATE DATABASE "{name}"')
    victim.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    # Before the server come one that is away and one that takes no writes, like a replica.
    hosts = quote(",", safe="").join(["%2Fnowhere", standby, query])
    url = f"{path}?host={hosts}&target_session_attrs=read-write"
    engine = create_engine_for(load_settings({"DATABASE_URL": url}).database_url or "")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM activity")).scalar_one() == 0
    engine.dispose()
    victim.execute(f'DROP DATABASE "{name}"')
