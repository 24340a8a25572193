"""After each refresh, the snapshot has exactly the live keys of the database, whatever happened to them before."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, text

from app.config import load_settings
from app.db.keys import insert_key, update_key_revoked
from app.runtime import Runtime
from app.services.keys import Key, digest_of, new_key
from app.services.keys.lookups import KeyLookups
from app.services.keys.snapshot import KeySnapshot
from app.services.limits import Budget
from tests.support.soak import examples

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "create",
                "revoke",
                "rename",
                "delete",
                "hold",
                "expire",
                "raise",
                "look up",
                "refresh first",
                "refresh second",
            ]
        ),
        st.integers(0, 3),
    ),
    min_size=6,
    max_size=30,
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


class World:
    """A table of keys, two workers' snapshots of it that share a directory, and the expected contents."""

    def __init__(self, engine: Engine, url: str, directory: Path) -> None:
        self._engine = engine
        self._runtimes = [Runtime(load_settings({"DATABASE_URL": url, "JOURNAL_DIR": str(directory)})) for _ in "12"]
        self.snapshots = [runtime.get(KeySnapshot) for runtime in self._runtimes]
        self._made: list[tuple[str, bytes]] = []
        self._live: dict[bytes, Key] = {}
        self._limits: dict[str, list[Budget]] = {}
        for what in ("api_key WHERE id <> 'old'", "budget", "subject WHERE kind = 'holder'"):
            self._execute(f"DELETE FROM {what}")

    def take(self, step: str, number: int, name: str) -> None:
        """Takes one step; `number` chooses its key."""
        if step.startswith("refresh"):
            self.check(self.snapshots[step == "refresh second"])
        elif step == "create":
            id, digest = f"id{len(self._made)}", digest_of(new_key())
            with self._engine.begin() as connection:
                insert_key(connection, id=id, name=name, digest=digest, last_four="abcd")
            self._made.append((id, digest))
            self._live[digest] = Key(id, name)
        elif self._made:
            self._change(step, *self._made[number % len(self._made)], name)

    def _change(self, step: str, id: str, digest: bytes, name: str) -> None:
        if step == "look up":
            assert self._runtimes[0].get(KeyLookups).look_up(digest) == self._live.get(digest)
        elif step == "revoke":
            with self._engine.begin() as connection:
                update_key_revoked(connection, id)
            self._live.pop(digest, None)
        elif step == "delete":
            self._execute("DELETE FROM api_key WHERE id = :id", id=id)
            self._live.pop(digest, None)
        elif step == "hold":
            self._hold(id, digest, name)
        elif step == "raise":
            self._raise(id)
        else:
            column, value = {
                "rename": ("name", name),
                "expire": ("expires_at", datetime.fromtimestamp(4_000_000_000 + len(name), UTC)),
            }[step]
            self._execute(f"UPDATE api_key SET {column} = :value WHERE id = :id", id=id, value=value)
            if digest in self._live:
                value = value if isinstance(value, str) else int(value.timestamp())
                self._live[digest] = msgspec.structs.replace(self._live[digest], **{column: value})

    def _hold(self, id: str, digest: bytes, name: str) -> None:
        """Gives a key a holder with a budget, or ends the budget if it has one."""
        holder = f"holder of {id}"
        if holder in self._limits:
            self._execute("UPDATE budget SET ended_at = now() WHERE subject_id = :id", id=holder)
            self._limits[holder] = []
            return
        self._execute("INSERT INTO subject (id, kind, name) VALUES (:id, 'holder', :name)", id=holder, name=id + name)
        number = self._execute(
            "INSERT INTO budget (subject_id, unit, amount, time_window, warn_percents)"
            " VALUES (:id, 'usd', 0.5, 'day', '{80}') RETURNING id",
            id=holder,
        )
        self._limits[holder] = [Budget(number, "usd", "0.5", "day", "UTC", 1, (80,))]
        self._execute("UPDATE api_key SET holder_id = :holder WHERE id = :id", id=id, holder=holder)
        if digest in self._live:
            self._live[digest] = msgspec.structs.replace(self._live[digest], holder_id=holder)

    def _raise(self, id: str) -> None:
        holder = f"holder of {id}"
        if self._limits.get(holder):
            self._execute("UPDATE budget SET amount = 12345678901234.5 WHERE subject_id = :id", id=holder)
            self._limits[holder] = [msgspec.structs.replace(self._limits[holder][0], amount="12345678901234.5")]

    def check(self, snapshot: KeySnapshot) -> None:
        """Refreshes a snapshot and compares it with the expected contents."""
        snapshot.refresh()
        found = {digest: key for _, digest in self._made if (key := snapshot.get(digest)) is not None}
        assert found == self._live and snapshot.get_state().known == len(found)
        limited = {holder: budgets for holder, budgets in self._limits.items() if budgets}
        assert {holder: list(policy.subjects[0].budgets) for holder, policy in snapshot.policies.items()} == limited

    def _execute(self, statement: str, **values: object) -> Any:
        with self._engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return result.scalar() if result.returns_rows else None

    def close(self) -> None:
        """Closes the connections."""
        for runtime in self._runtimes:
            runtime.close()


def test_after_each_refresh_the_keys_are_those_of_the_table(
    database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = create_engine(database_url)
    # An empty table would count as half restored (test_half_restored.py); this revoked row prevents that.
    with engine.begin() as connection:
        insert_key(connection, id="old", name="revoked", digest=digest_of(new_key()), last_four="abcd")
        update_key_revoked(connection, "old")

    @settings(max_examples=examples(60), deadline=None)
    @given(STEPS, NAMES)
    @example([("refresh first", 0), ("create", 0), ("look up", 0), ("revoke", 0), ("refresh first", 0)], "unseen")
    @example([("create", 0), ("refresh first", 0), ("rename", 0), ("refresh first", 0)], "renamed")
    @example([("create", 0), ("refresh first", 0), ("expire", 0), ("refresh first", 0)], "expiring")
    @example([("create", 0), ("hold", 0), ("look up", 0), ("raise", 0), ("refresh first", 0), ("hold", 0)], "limited")
    def run(steps: list[tuple[str, int]], name: str) -> None:
        world = World(engine, database_url, tmp_path_factory.mktemp("keys"))
        try:
            for at, (step, number) in enumerate(steps):
                world.take(step, number, f"{name}{at}")
            for snapshot in world.snapshots:
                world.check(snapshot)
                world.check(snapshot)
        finally:
            world.close()

    run()
    engine.dispose()
