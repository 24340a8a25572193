"""While a database is restored table by table, keys and limits stay in force, and revoked keys stay revoked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import create_engine, text

from app.config import load_settings
from app.db.limit_tables import GATEWAY_ID
from app.errors import Unavailable
from app.runtime import Runtime, get_component, use_settings
from app.services.administration import delete_group, delete_holder
from app.services.health import check_readiness
from app.services.keys import Key, digest_of, half_restored
from app.services.keys.live_keys import LiveKeys
from app.services.keys.lookups import KeyLookups
from app.services.keys.snapshot import KeySnapshot
from app.services.limits import Subject
from tests.support.dumps import run_tool
from tests.support.keys import ACTOR, create_key, revoke_key
from tests.support.limited_keys import make_group, make_limited_key


class World:
    """A database with four keys, which is dropped and restored, and workers that use it; `close` ends them."""

    def __init__(self, url: str, place: Path) -> None:
        self._url, self._place = url, place
        self._engine = create_engine(url)
        self._runtimes: list[Runtime] = []
        use_settings(load_settings({"DATABASE_URL": url, "JOURNAL_DIR": str(place / "first")}))
        self.plain, self.plain_id = _digest_and_id(create_key("plain"))
        self.stopped, stopped_id = _digest_and_id(create_key("stopped"))
        revoke_key(stopped_id)
        self.limited = digest_of(make_limited_key(url, ("usd", "5"), models=["*/small"]))
        self.worker = self.start_worker("first")
        self.later, _ = _digest_and_id(create_key("later"))  # The first worker does not know it yet.
        run_tool("pg_dump", url, "--format=custom", f"--file={place / 'dump'}")
        self.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    def start_worker(self, journal: str) -> Runtime:
        """Returns a worker on the host of that journal, which has queried the database once."""
        runtime = Runtime(load_settings({"DATABASE_URL": self._url, "JOURNAL_DIR": str(self._place / journal)}))
        self._runtimes.append(runtime)
        runtime.get(KeySnapshot).refresh()
        return runtime

    def restore(self, *arguments: str) -> None:
        """Restores a part of the database, and refreshes the first worker from it."""
        run_tool("pg_restore", self._url, *arguments, str(self._place / "dump"))
        self.worker.get(KeySnapshot).refresh()

    def execute(self, statement: str) -> None:
        """Executes a statement."""
        with self._engine.begin() as connection:
            connection.execute(text(statement))

    def close(self) -> None:
        """Closes all connections."""
        for runtime in self._runtimes:
            runtime.close()
        self._engine.dispose()
        use_settings(None)


def _digest_and_id(made: tuple[str, object]) -> tuple[bytes, str]:
    return digest_of(made[0]), made[0].split("_")[1]


def find(worker: Runtime, digest: bytes) -> Key | None | str:
    """Returns the result of a request's look-up of the key; "503" if it cannot be checked."""
    try:
        return worker.get(KeySnapshot).get(digest) or worker.get(KeyLookups).look_up(digest)
    except Unavailable:
        return "503"


def name_of(worker: Runtime, digest: bytes) -> str | None:
    """Returns "503" as `find` does, or the first word of the key's name; None if it is refused."""
    found = find(worker, digest)
    return found.name.split()[0] if isinstance(found, Key) else found


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[World]:
    """A dropped database, a dump of it, and a worker that has loaded its keys."""
    world = World(database_url, tmp_path)
    yield world
    world.close()


def test_keys_and_limits_count_on_while_a_dump_is_restored_table_by_table(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    keys = world.plain, world.limited, world.stopped, world.later
    policies = world.worker.get(KeySnapshot).policies
    assert policies.keys() and policies.keys() == {find(world.worker, world.limited).holder_id}  # type: ignore[union-attr]

    world.restore("--section=pre-data")
    assert [name_of(world.worker, key) for key in keys] == ["plain", "key", "503", "503"], "no key has a row"
    assert world.worker.get(KeySnapshot).policies == policies
    # A new worker on the same host starts with the host's keys, one on another host without any keys.
    beside, alone = world.start_worker("first"), world.start_worker("second")
    assert [name_of(beside, key) for key in keys] == ["plain", "key", "503", "503"]
    assert [name_of(alone, key) for key in keys] == ["503"] * 4, "no installation lacks the gateway's limits"
    problem = get_problem(beside)
    assert "half restored: it has no keys and no holders. The keys that it had (2)" in problem
    assert "Complete its restore." in problem

    world.restore("--section=data", "--table=api_key")
    for worker in (beside, alone):
        worker.get(KeySnapshot).refresh()
    assert [name_of(world.worker, key) for key in keys] == ["plain", "key", None, "later"]
    assert world.worker.get(KeySnapshot).policies == beside.get(KeySnapshot).policies == policies
    assert [name_of(alone, key) for key in keys] == ["503", "503", None, "503"], "their limits are not known"
    world.execute(f"UPDATE api_key SET revoked_at = now() WHERE id = '{world.plain_id}'")
    world.worker.get(KeySnapshot).refresh()
    assert [name_of(world.worker, key) for key in keys] == [None, "key", None, "later"], "revoked: it stops at once"

    world.restore("--section=data", "--table=subject")
    assert world.worker.get(KeySnapshot).policies == policies, "budgets too"
    world.restore("--section=data", "--table=budget")
    for worker in (world.worker, beside, alone):
        worker.get(KeySnapshot).refresh()
        assert [name_of(worker, key) for key in keys] == [None, "key", None, "later"]
        assert worker.get(KeySnapshot).policies == policies and worker.get(KeySnapshot).get_state().doubt is None
    logged = capfd.readouterr().err
    counts = [logged.count(f'"{event}"') for event in ("key_answer_doubted", "key_answer_believed", "key_file_loaded")]
    assert counts == [4, 3, 2], "one was asked for its problem only"


def get_problem(worker: Runtime) -> str:
    """Returns the problem with its keys that a worker's `/ready` shows."""
    use_settings(worker.settings)
    get_component(KeySnapshot).refresh()
    return check_readiness().problems["keys"]


def test_that_keys_are_gone_is_believed_in_the_end_and_that_their_limits_are_is_not(
    world: World, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = "api_key", "subject", "budget"
    world.restore("--section=pre-data")
    world.restore("--section=data", *(f"--table={table}" for table in everything))
    world.execute("CREATE TABLE kept AS TABLE api_key; DELETE FROM api_key; DELETE FROM budget")
    snapshot = world.worker.get(KeySnapshot)
    snapshot.refresh()
    assert name_of(world.worker, world.limited) == "key" and snapshot.policies
    monkeypatch.setattr(half_restored, "KEYS_GRACE_S", 0.0)
    snapshot.refresh()
    assert [name_of(world.worker, key) for key in (world.plain, world.limited)] == [None, None]
    assert not any(subject.budgets for policy in snapshot.policies.values() for subject in policy.subjects)
    assert capfd.readouterr().err.count("empty_tables_believed") == 1
    world.execute("INSERT INTO api_key TABLE kept; DELETE FROM subject WHERE kind = 'holder'")
    snapshot.refresh()
    assert [name_of(world.worker, key) for key in (world.plain, world.limited)] == ["plain", "key"]
    assert "1 holders of its keys" in (snapshot.doubt.reason or "")
    assert name_of(world.start_worker("second"), world.limited) == "503", "it has never known its limits"


def test_deleting_the_last_holders_and_groups_with_budgets_is_no_restore(database_url: str, tmp_path: Path) -> None:
    settings = load_settings({"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path)})
    use_settings(settings)
    group = make_group(database_url, ("tokens", "1000"))
    made = make_limited_key(database_url, ("usd", "5"), group=group)
    with closing(Runtime(settings)) as worker:
        snapshot = worker.get(KeySnapshot)
        snapshot.refresh()
        (holder,) = snapshot.policies
        revoke_key(made.split("_")[1])  # No live key is left, which is no restore either.
        delete_holder(ACTOR, holder)
        delete_group(ACTOR, group)
        snapshot.refresh()
        assert snapshot.get_state().doubt is None and not snapshot.policies
        later = digest_of(make_limited_key(database_url, requests_per_minute=1))
        assert name_of(worker, later) == "key", "its limits are read at once"
        subjects = [subject for policy in snapshot.policies.values() for subject in policy.subjects]
        assert [subject.requests_per_minute for subject in subjects] == [1]
    use_settings(None)


def test_a_key_that_is_looked_up_while_a_doubtful_answer_is_merged_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second, later = (Key(id=name, name=name) for name in ("first", "second", "later"))
    subjects = {GATEWAY_ID: Subject(GATEWAY_ID, "gateway", "gateway", None, (), None, None, None, None, ())}
    found, held = LiveKeys({}, subjects, {}), LiveKeys({b"1": first, b"2": second}, subjects, {})
    monkeypatch.setattr(half_restored, "_SLICE_ITEMS", 1)
    # What another greenlet does in a pause.
    monkeypatch.setattr("app.yielding.time", SimpleNamespace(sleep=lambda pause_s: held.keys.update({b"3": later})))
    believed = half_restored.Doubt().judge(found, {"api_key"}, held)
    assert believed is not None and believed.keys == {b"1": first, b"2": second} and b"3" in held.keys
