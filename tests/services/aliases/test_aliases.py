"""After each refresh, a worker has exactly the aliases of the table, and keeps them while the database is away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.config import load_settings
from app.db.aliases import delete_alias, insert_alias, select_alias, update_alias
from app.db.engine import create_engine_for
from app.runtime import Runtime
from app.services.aliases import Aliases
from app.services.aliases.aliases import Alias, AliasTarget
from tests.support.postgres import Postgres

ORDERED = {"response_format": {"type": "json_schema", "z": 1, "a": 1.0}, "temperature": 0.2}


@pytest.fixture(scope="module")
def engine(victim_url: str) -> Iterator[Engine]:
    """An engine on a database that the tests of this file may stop."""
    engine = create_engine_for(victim_url)
    yield engine
    engine.dispose()


def make_aliases(url: str, directory: Path) -> Aliases:
    """Returns the aliases of a newly started worker."""
    return Runtime(load_settings({"DATABASE_URL": url, "JOURNAL_DIR": str(directory)})).get(Aliases)


def test_a_refresh_takes_over_every_change(engine: Engine, victim_url: str, tmp_path: Path) -> None:
    first, second = make_aliases(victim_url, tmp_path), make_aliases(victim_url, tmp_path)
    first.refresh()
    assert first.all() == () and first.generation == 1 and first.get("fast") is None
    with engine.begin() as connection:
        assert insert_alias(connection, "fast", [("fireworks/a", 3.0), ("deepinfra/b/c", 0.5)], None, ORDERED)
        assert insert_alias(connection, "team/cheap", [("chutes/d/e", None)], "price", {}) is not None
        assert insert_alias(connection, "fast", [("chutes/d/e", None)], None, {}) is None
    first.refresh()
    second.refresh()
    fast = first.get("FAST")
    assert fast is not None and fast.created_at > 1_700_000_000
    targets = (AliasTarget("fireworks/a", 3.0), AliasTarget("deepinfra/b/c", 0.5))
    assert fast == Alias("fast", targets, None, ORDERED, fast.created_at)
    assert repr(fast.overrides) == repr(ORDERED), "the order of names, and 1.0, are as they were written"
    assert [alias.name for alias in first.all()] == ["fast", "team/cheap"] and first.all() == second.all()
    assert first.fingerprint == second.fingerprint and (first.generation, second.generation) == (2, 1)
    first.refresh()
    assert first.generation == 2, "nothing has changed"
    changes = [("fast", [("fireworks/a", None)], "latency", {}), ("fast", [("fireworks/a", None)], "latency", {"n": 1})]
    for generation, change in enumerate(changes, start=3):
        with engine.begin() as connection:
            changed = update_alias(connection, *change)
            assert changed == select_alias(connection, "fast")
        first.refresh()
        assert first.generation == generation
        fast = first.get("fast")
        assert fast is not None and (fast.sort, fast.overrides) == change[2:]
    with engine.begin() as connection:
        delete_alias(connection, "fast")
        delete_alias(connection, "team/cheap")
    first.refresh()
    assert first.all() == () and first.generation == 5


def test_the_aliases_survive_an_outage(
    engine: Engine, victim: Postgres, victim_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with engine.begin() as connection:
        insert_alias(connection, "fast", [("fireworks/a", None)], None, {})
    aliases = make_aliases(victim_url, tmp_path)
    aliases.refresh()
    victim.stop()
    try:
        later = make_aliases(victim_url, tmp_path)
        later.refresh()
        assert later.all() == aliases.all() and later.fingerprint == aliases.fingerprint
        assert make_aliases(victim_url, tmp_path / "elsewhere").all() == ()
        logged = capfd.readouterr().err
        assert logged.count("alias_file_loaded") == 1
        aliases.refresh()
        aliases.refresh()
        assert aliases.get("fast") is not None and aliases.generation == 1
        assert capfd.readouterr().err.count("alias_refresh_failed") == 1
    finally:
        victim.start()
    with engine.begin() as connection:
        delete_alias(connection, "fast")
    for each in (aliases, later):
        each.refresh()
        assert each.get("fast") is None and each.generation == 2
    with engine.begin() as connection:
        insert_alias(connection, "new", [("fireworks/a", None)], None, {})
    later.refresh()
    aliases._file.path.write_bytes(aliases._file.path.read_bytes()[:300])
    victim.stop()
    try:
        damaged = make_aliases(victim_url, tmp_path)
        damaged.refresh()
        damaged.refresh()
        assert damaged.all() == () and later.get("new") is not None
        assert capfd.readouterr().err.count("its content is damaged") == 1
    finally:
        victim.start()
