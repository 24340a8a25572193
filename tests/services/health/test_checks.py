"""The checks decide whether the gateway may start and serve; an unavailable database prevents neither."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import structs

from app.config import load_settings
from app.runtime import get_component, use_settings
from app.server.preflight import find_boot_problem
from app.services.health import CHECKS, Readiness, check_readiness, checks
from app.services.health.checks import DatabaseState
from app.services.journal import get_journal_status
from app.services.keys import snapshot
from app.services.keys.snapshot import KeySnapshot
from app.shutdown import start_drain
from tests.support.gateway import base_settings, clean_environment
from tests.support.postgres import Postgres

AWAY = "postgresql://nobody@/nothing?host=/nowhere"
Ready = Callable[..., Readiness]


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ready]:
    """Returns a function that takes settings and the journal's state, and returns the readiness."""

    def make(writable: bool = True, **settings: str) -> Readiness:
        use_settings(load_settings({"DATABASE_URL": AWAY, **settings}))
        journal = structs.replace(get_journal_status(), writable=writable, last_error="OSError: no space left")
        monkeypatch.setattr(checks, "get_journal_status", lambda: journal)
        return check_readiness()

    yield make
    use_settings(None)


def test_an_unavailable_database_does_not_make_the_process_unready(ready: Ready) -> None:
    readiness = ready()
    assert readiness.ready and readiness.database == DatabaseState(reachable=False, schema=None)


def test_a_journal_that_cannot_be_written_makes_the_process_unready_if_requests_are_refused(ready: Ready) -> None:
    assert not ready(writable=False, JOURNAL_FULL="refuse").ready
    assert ready(writable=False, JOURNAL_FULL="serve").ready


def test_without_any_key_that_could_work_the_process_is_unready_and_says_why(ready: Ready, tmp_path: Path) -> None:
    journal = {"JOURNAL_DIR": str(tmp_path)}
    assert ready(**journal).ready, "before the first query nothing is known"
    for settings, is_ready in [({}, False), ({"GATEWAY_API_KEY": "the-key-of-operators"}, True)]:
        ready(**journal, **settings)
        get_component(KeySnapshot).refresh()
        readiness = check_readiness()
        assert readiness.ready is is_ready and not readiness.keys.usable
        assert "the database does not answer" in readiness.problems["keys"]
        assert "keys.snapshot is not used" in readiness.problems["keys"] and "503" in readiness.problems["keys"]


def test_without_user_keys_nothing_is_said_to_be_too_old_before_it_is(
    ready: Ready, postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.create_migrated_database()
    ready(JOURNAL_DIR=str(tmp_path), DATABASE_URL=url)
    get_component(KeySnapshot).refresh()
    postgres.drop_database(url)
    get_component(KeySnapshot).refresh()
    readiness = check_readiness()
    problem = readiness.problems["keys"]
    assert readiness.keys.usable and readiness.keys.known == 0 and not readiness.ready
    assert "it had no user key, so user keys get 503" in problem and "too long" not in problem
    monkeypatch.setattr(snapshot, "GRACE_S", 0.0)
    assert "s ago, which is too long" in check_readiness().problems["keys"]


def test_a_draining_process_is_not_ready_unless_others_serve_in_its_place(ready: Ready) -> None:
    assert ready().ready
    for replaced in (True, False):
        start_drain(60, replaced=replaced)
        readiness = check_readiness()
        assert (readiness.ready, readiness.draining) == (replaced, True)


def test_readiness_has_a_field_for_each_check_that_it_shows() -> None:
    shown = [check.name for check in CHECKS]
    assert list(Readiness.__struct_fields__) == ["ready", "draining", "problems", *shown, "hosts"]


def test_the_start_is_blocked_by_problems_that_only_the_operator_can_fix(
    postgres: Postgres, database_url: str, tmp_path: Path
) -> None:
    empty = postgres.create_database()
    prices = tmp_path / "prices.toml"
    prices.write_text("nonsense")
    try:
        journal = {"JOURNAL_DIR": str(tmp_path / "journal")}
        good = journal | {"DATABASE_URL": database_url}
        assert find_boot_problem(load_settings(good)) is None
        assert find_boot_problem(load_settings(good | {"DATABASE_URL": AWAY})) is None
        assert "DATABASE_URL" in (find_boot_problem(load_settings(journal)) or "")
        assert "bin/gateway db upgrade" in (find_boot_problem(load_settings(good | {"DATABASE_URL": empty})) or "")
        assert "prices.toml" in (find_boot_problem(load_settings(good | {"PRICE_FILE": str(prices)})) or "")
        # With JOURNAL_FULL=serve, the operator has chosen to continue without records.
        unwritable = good | {"JOURNAL_DIR": f"{prices}/journal"}
        assert "JOURNAL_DIR" in (find_boot_problem(load_settings(unwritable)) or "")
        serving = load_settings(unwritable | {"JOURNAL_FULL": "serve"})
        assert find_boot_problem(serving) is None
        # A start tolerates this, but a reload must not replace a gateway that has a better setting.
        assert "JOURNAL_DIR" in (find_boot_problem(serving, changed=["JOURNAL_DIR"]) or "")
        away = load_settings(good | {"DATABASE_URL": AWAY})
        assert "does not answer" in (find_boot_problem(away, changed=["PORT", "DATABASE_URL"]) or "")
        assert find_boot_problem(away, changed=["PORT", "GATEWAY_API_KEY"]) is None
    finally:
        use_settings(None)
        postgres.drop_database(empty)


def test_a_database_that_is_as_it_should_be_is_checked_without_what_takes_long_to_import(
    database_url: str, tmp_path: Path
) -> None:
    check = (
        "import sys; from app.config import load_settings; from app.server.preflight import find_boot_problem;"
        "print(find_boot_problem(load_settings()), 'psycopg2' in sys.modules, 'sqlalchemy' in sys.modules)"
    )
    environment = clean_environment() | base_settings(tmp_path, database_url)
    done = subprocess.run([sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "None True False"
