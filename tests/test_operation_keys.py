"""An operator makes and revokes gateway keys, which keep working while PostgreSQL is away, even in a new worker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from app.cli.keys import keys_group
from app.config import load_settings
from app.runtime import use_settings
from app.services.keys import REVOCATION_S, new_key
from app.services.keys.snapshot_file import NAME
from tests.support.chat import PREFIX, Seen, post_chat, rows_where, wait_for_row
from tests.support.gateway import Gateway, base_settings, clean_environment, running_gateway
from tests.support.key_file import has_key
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only
from tests.support.user_keys import make_key
from tests.support.waiting import wait_until

pytestmark = soak_only(
    "services/keys/test_snapshot_file.py::test_a_worker_that_starts_without_the_database_uses_it_until_the_grace_time_ends"
)


class Place(NamedTuple):
    """A gateway in front of a scripted upstream, on a PostgreSQL that a test may stop."""

    gateway: Gateway
    postgres: Postgres
    url: str
    root: Path
    key_file: Path

    def flask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `bin/gateway …` in a separate process, like an operator."""
        environment = clean_environment() | {"DATABASE_URL": self.url}
        command = [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]
        return subprocess.run(
            command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    def operate(self, *arguments: str) -> str:
        """Runs `bin/gateway keys …` in this process, and returns its output."""
        use_settings(load_settings({"DATABASE_URL": self.url}))
        try:
            done = CliRunner().invoke(keys_group, arguments)
        finally:
            use_settings(None)
        assert done.exit_code == 0, done.output
        return done.output

    def chat(self, key: str, model: str = "key-test") -> Seen:
        """Sends a chat with a key."""
        return post_chat(self.gateway, PREFIX + model, key=key)


@pytest.fixture(scope="module")
def place(tree: Path, victim: Postgres, victim_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The gateway of these tests."""
    directory = tmp_path_factory.mktemp("keys-gateway")
    with ScriptedUpstream() as upstream:
        settings = base_settings(directory, victim_url) | upstream.settings
        with running_gateway(tree, directory, settings) as gateway:
            yield Place(gateway, victim, victim_url, tree, directory / "journal" / NAME)


def test_a_new_key_works_at_once_and_its_rows_have_its_public_id(place: Place) -> None:
    done = place.flask("keys", "create", "alice")
    assert done.returncode == 0, done.stderr
    key = done.stdout.strip()
    seen = place.chat(key)
    assert seen.status == 200
    row = wait_for_row(place.url, seen.request_id)
    listed = place.operate("list")
    assert key.startswith(f"gw_{row['key_id']}_") and row["key_id"] in listed
    assert key not in listed + place.gateway.log() + str(row)


def test_a_revoked_key_stops_working_within_the_promised_time(place: Place) -> None:
    key = make_key(place.url)
    assert place.chat(key).status == 200
    assert f"within {REVOCATION_S:g} seconds" in place.operate("revoke", key.split("_")[1])
    seen = wait_until(lambda: (answer := place.chat(key)).status != 200 and answer, REVOCATION_S, "the key to stop")
    assert (seen.status, seen.error["type"], seen.error["code"]) == (401, "authentication_error", "invalid_api_key")
    assert "revoked" in seen.error["message"]


def test_a_well_formed_key_that_was_never_made_is_a_401(place: Place) -> None:
    assert place.chat(new_key()).status == 401


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_while_postgres_is_away_keys_work_in_a_new_worker_and_nothing_is_lost(place: Place, how: str) -> None:
    key = make_key(place.url)
    assert place.chat(key).status == 200
    wait_until(lambda: has_key(place.key_file, key), what="the key to be in the file")
    end, mend = {
        "killed": (place.postgres.kill, place.postgres.start),
        "frozen": (place.postgres.pause, place.postgres.resume),
    }[how]
    end()
    try:
        place.gateway.reload()
        seen = [place.chat(key, f"while-{how}") for _ in range(5)]
        operator = place.chat(place.gateway.key, f"while-{how}")
        unknown, malformed = place.chat(new_key()), place.chat("gw_mistyped")
    finally:
        mend()

    assert [one.status for one in (*seen, operator)] == [200] * 6
    assert (unknown.status, unknown.error["type"]) == (503, "unavailable_error")
    assert int(unknown.headers["retry-after"]) > 0
    assert (malformed.status, malformed.error["type"]) == (401, "authentication_error")
    wanted = {one.request_id for one in (*seen, operator)}
    rows = wait_until(
        lambda: len(found := rows_where(place.url, "model_requested", f"{PREFIX}while-{how}")) >= 6 and found,
        what="the rows of the outage",
    )
    assert {row["request_id"] for row in rows} == wanted and {row["status"] for row in rows} == {200}
    assert wait_until(lambda: place.chat(new_key()).status == 401, what="unknown keys to be unknown again")
