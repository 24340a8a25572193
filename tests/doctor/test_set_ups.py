"""`bin/gateway doctor` finds the mistake in a set-up that is really broken, and reports nothing else.

Each case breaks one part of an otherwise sound set-up, and lists the required findings.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from app.cli.db import db_group
from app.cli.keys import keys_group
from app.config import load_settings, setting_names
from app.doctor import examine
from app.runtime import use_settings
from app.server.preflight import find_boot_problem
from tests.support.activity_tables import ActivityTables
from tests.support.answers import json_answer
from tests.support.gateway import GATEWAY_KEY, base_settings, free_port
from tests.support.otlp_receiver import running_otlp_receiver
from tests.support.pooler import running_pooler
from tests.support.postgres import Postgres, running_postgres
from tests.support.scripted_upstream import ScriptedUpstream, refused_address


class World(NamedTuple):
    """The parts of a set-up."""

    postgres: Postgres
    database_url: str
    upstream: ScriptedUpstream
    place: Path
    replica_url: str


Settings = dict[str, str]
Break = Callable[[World], AbstractContextManager[Settings]]


def with_settings(**settings: str) -> Break:
    """Returns a break by settings, in which {place} and {database} are replaced by the test's own."""
    return lambda world: nullcontext(
        {name: value.format(place=world.place, database=world.database_url) for name, value in settings.items()}
    )


def tcp(port: int) -> str:
    return f"postgresql://x:y@127.0.0.1:{port}/x"


@contextmanager
def nothing_listens(world: World, setting: str) -> Iterator[Settings]:
    with refused_address() as address:
        port = int(address.partition("127.0.0.1:")[2].partition("/")[0])
        yield {setting: tcp(port) if "DATABASE" in setting else f"http://127.0.0.1:{port}"}


@contextmanager
def another_database(world: World) -> Iterator[Settings]:
    other = world.postgres.create_database()
    yield {"DATABASE_DIRECT_URL": other}
    world.postgres.drop_database(other)


@contextmanager
def behind_pooler(world: World, *settings: str, ignored: str = "") -> Iterator[Settings]:
    with running_pooler(world.database_url, ignored=ignored) as url:
        yield dict.fromkeys(settings, url)


@contextmanager
def a_page_in_place_of_the_list(world: World) -> Iterator[Settings]:
    world.upstream.on_path("/models", json_answer(["this", "is", "another", "site"]))
    yield {}


@contextmanager
def a_path_that_is_not_there(world: World) -> Iterator[Settings]:
    world.upstream.on_path("/models", json_answer({"error": {"message": "Not Found"}}, status=404))
    yield {}


@contextmanager
def a_worker_that_is_missing(world: World) -> Iterator[Settings]:
    tables = ActivityTables(world.database_url)
    tables.execute(
        "INSERT INTO worker (worker_id, host, pid, version, journal_dir, started_at, last_seen_at)"
        " VALUES ('gone', 'gateway-3', 7, 'x', '/srv/journal', now() - interval '2 days', now() - interval '1 day')"
    )
    yield {}
    tables.execute("DELETE FROM worker WHERE worker_id = 'gone'")


@contextmanager
def workers_with_another_journal(world: World) -> Iterator[Settings]:
    tables = ActivityTables(world.database_url)
    tables.execute(
        "INSERT INTO worker (worker_id, host, pid, version, journal_dir, started_at, last_seen_at)"
        f" VALUES ('lives', '{socket.gethostname()}', 7, 'x', '/srv/journal', now(), now())"
    )
    yield {"JOURNAL_DIR": str(world.place / "shells" / "journal")}
    tables.execute("DELETE FROM worker WHERE worker_id = 'lives'")
    assert not (world.place / "shells").exists(), "doctor makes no directory"


@contextmanager
def port_of_another_program(world: World) -> Iterator[Settings]:
    yield {"PORT": str(urlsplit(world.upstream.settings["FIREWORKS_BASE_URL"]).port)}


@contextmanager
def a_collector_with_status(world: World, status: int) -> Iterator[Settings]:
    with running_otlp_receiver(status) as collector:
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}


# The mistake → how it is made, and a pattern for each required finding: check, then status and text.
CASES: dict[str, tuple[Break, Sequence[tuple[str, str]]]] = {
    "nothing": (with_settings(), []),
    "database address of MySQL": (
        with_settings(DATABASE_URL="mysql://u:p@h/x"),
        [("settings", r"fail: DATABASE_URL .*postgresql://")],
    ),
    "no database address": (with_settings(DATABASE_URL=""), [("database", r"fail: DATABASE_URL is not set\. Set it")]),
    "dead database": (
        lambda world: nothing_listens(world, "DATABASE_URL"),
        [("database", r"fail: .*refused\. Start PostgreSQL, or correct the host and the port in DATABASE_URL\.$")],
    ),
    "unknown host of the database": (
        with_settings(DATABASE_URL="postgresql://u:p@nowhere.invalid/x"),
        [("database", r"fail: .*nowhere\.invalid.*Correct the host in DATABASE_URL, or this machine's DNS\.$")],
    ),
    "database that does not exist": (
        with_settings(DATABASE_URL="{database}&dbname=nowhere"),
        [("database", r"fail: The database refuses DATABASE_URL .*create that database\.$")],
    ),
    "dead direct address": (
        lambda world: nothing_listens(world, "DATABASE_DIRECT_URL"),
        [("database", r"fail: Migrations .* fail: .*refused\. Start PostgreSQL, or .* in DATABASE_DIRECT_URL\.$")],
    ),
    "direct address of another database": (
        another_database,
        [("database", r"fail: DATABASE_DIRECT_URL leads to another database \(test_\w+\) than DATABASE_URL \(test_")],
    ),
    "direct address of a replica": (
        lambda world: nullcontext({"DATABASE_DIRECT_URL": world.replica_url}),
        [
            (
                "database",
                r"fail: DATABASE_DIRECT_URL leads to a replica, which takes no writes, so migrations and .* fail",
            )
        ],
    ),
    "address of a replica": (
        lambda world: nullcontext({"DATABASE_URL": world.replica_url}),
        [("database", r"fail: DATABASE_URL leads to a replica, which takes no writes, so records wait .*read-write")],
    ),
    "pooler without a direct address": (
        lambda world: behind_pooler(world, "DATABASE_URL"),
        [("database", r"fail: DATABASE_URL leads to a pooler such as PgBouncer .*Set DATABASE_DIRECT_URL too")],
    ),
    "pooler that drops options": (
        lambda world: behind_pooler(world, "DATABASE_URL", ignored="options"),
        [("database", r"fail: DATABASE_URL leads to a pooler that drops .*Set DATABASE_DIRECT_URL too")],
    ),
    "pooler at both addresses": (
        lambda world: behind_pooler(world, "DATABASE_URL", "DATABASE_DIRECT_URL", ignored="options"),
        [("database", r"fail: DATABASE_DIRECT_URL leads to a pooler that drops .*It must lead to PostgreSQL itself")],
    ),
    "dead provider": (
        lambda world: nothing_listens(world, "FIREWORKS_BASE_URL"),
        [("fireworks", r"fail: no connection to 127\.0\.0\.1.*correct FIREWORKS_BASE_URL")],
    ),
    "provider's address with a wrong path": (
        a_path_that_is_not_there,
        [
            (
                "fireworks",
                r"fail: what answers at http\S+ is not Fireworks's API \(status 404\)\. Correct FIREWORKS_BASE",
            )
        ],
    ),
    "provider's address of another site": (
        a_page_in_place_of_the_list,
        [("fireworks", r"fail: what answers at http\S+ is not Fireworks's API \(no list.*Correct FIREWORKS_BASE_URL")],
    ),
    "no key of a provider": (
        with_settings(FIREWORKS_API_KEY=""),
        [("provider_keys", r"warn: no provider has a key.*Set at least one of FIREWORKS_API_KEY")],
    ),
    "malformed address of the provider": (
        with_settings(FIREWORKS_BASE_URL="api.fireworks.ai"),
        [("settings", r"fail: FIREWORKS_BASE_URL is 'api\.fireworks\.ai'; it must be")],
    ),
    "malformed secret of a webhook": (
        with_settings(LIMITS_WEBHOOK="http://127.0.0.1:1/", LIMITS_WEBHOOK_SECRET="abc"),  # noqa: S106
        [("settings", r"fail: LIMITS_WEBHOOK_SECRET ")],
    ),
    "port of another program": (
        port_of_another_program,
        [("port", r"warn: port \d+ of 0\.0\.0\.0 cannot be used \(Address already in use\)\. Stop what uses it")],
    ),
    "malformed key": (with_settings(GATEWAY_API_KEY="short"), [("settings", r"fail: GATEWAY_API_KEY .*16")]),
    "misspelt name": (
        with_settings(GATEWAY_API_KEYY=GATEWAY_KEY),
        [("settings", r"warn: GATEWAY_API_KEYY is not a setting.*Did you mean GATEWAY_API_KEY\?$")],
    ),
    "dead collector": (
        lambda world: nothing_listens(world, "OTEL_EXPORTER_OTLP_ENDPOINT"),
        [("traces", r"warn: the collector at \S+ does not answer \(.*refused\).*Start it, or correct OTEL_")],
    ),
    "collector that wants a key": (
        lambda world: a_collector_with_status(world, 401),
        [("traces", r"warn: the collector refuses spans with status 401\. Set its key in OTEL_EXPORTER_OTLP_HEADERS")],
    ),
    "collector's address with a wrong path": (
        lambda world: a_collector_with_status(world, 404),
        [("traces", r"warn: what answers at \S+/v1/traces takes no spans \(status 404\)\. Correct OTEL_EXPORTER_OTLP")],
    ),
    "collector that takes spans": (lambda world: a_collector_with_status(world, 200), []),
    "missing worker": (
        a_worker_that_is_missing,
        [("records", r"warn: workers that ended or hang with records .*: 1\. Start the gateway on their hosts")],
    ),
    "directory of a shell that lacks the unit's": (
        workers_with_another_journal,
        [
            (
                "journal_directory",
                r"warn: live workers of this host have their journals in /srv/journal, .* \.env\.local",
            )
        ],
    ),
    "file of prices that is not there": (
        with_settings(PRICE_FILE="{place}/prices.toml"),
        [("prices", r"fail: PRICE_FILE .*prices\.toml")],
    ),
    "journal below a file": (
        with_settings(JOURNAL_DIR="{place}/file/journal"),
        [("journal_directory", r"fail: JOURNAL_DIR is .*cannot be written .*Give that directory to this user, or set")],
    ),
}


@pytest.fixture(scope="module")
def sound_url(postgres: Postgres) -> Iterator[str]:
    """The address of a migrated database without records."""
    url = postgres.create_migrated_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(scope="module")
def replica_url(server_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a migrated database on a server that refuses writes until it is promoted."""
    data = tmp_path_factory.mktemp("replica") / "data"
    subprocess.run(["cp", "-a", server_data, data], check=True)
    (data / "standby.signal").touch()
    with running_postgres(data=data) as replica:
        yield replica.database_url(replica.get_migrated())


@pytest.mark.parametrize("broken", CASES)
def test_what_is_broken_is_named_and_nothing_else(
    broken: str,
    postgres: Postgres,
    sound_url: str,
    replica_url: str,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (*setting_names(), "DYNO", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").touch()
    sound = {"DATABASE_URL": sound_url, "GATEWAY_API_KEY": GATEWAY_KEY, "JOURNAL_DIR": str(tmp_path / "journal")}
    sound["PORT"] = str(free_port())
    sound["COMPILED_EVENTS"] = "false"  # A module that `make speedups` built from earlier code would be a finding.
    make, wanted = CASES[broken]
    with make(World(postgres, sound_url, upstream, tmp_path, replica_url)) as settings:
        for name, value in (sound | upstream.settings | {"WEB_CONCURRENCY": "1"} | settings).items():
            monkeypatch.setenv(name, value)
        found = [(each.check, f"{each.status}: {each.text}") for each in examine() if each.status != "ok"]
    use_settings(None)
    assert [check for check, _ in found] == [check for check, _ in wanted], found
    for (_, text), (_, pattern) in zip(found, wanted, strict=True):
        assert re.match(pattern, text), text


def test_a_migration_is_refused_at_an_address_that_the_start_refuses(
    sound_url: str, replica_url: str, tmp_path: Path
) -> None:
    def upgrade(**addresses: str) -> Result:
        use_settings(load_settings(base_settings(tmp_path, sound_url) | addresses))
        return CliRunner().invoke(db_group, ["upgrade"])

    def start(**addresses: str) -> str | None:
        return find_boot_problem(load_settings(base_settings(tmp_path, sound_url) | addresses))

    refused: list[dict[str, str]] = [{"DATABASE_DIRECT_URL": replica_url}]
    with running_pooler(sound_url) as pooler, running_pooler(sound_url, ignored="options") as dropping:
        refused.append({"DATABASE_URL": pooler})
        for addresses in refused:
            done, reason = upgrade(**addresses), start(**addresses) or ""
            assert (done.exit_code, done.output) == (1, f"Error: {reason[0].upper()}{reason[1:]}\n")
        listed = CliRunner().invoke(keys_group, ["list"])
        assert (listed.exit_code, listed.output) == (1, done.output), "other commands say it too"
        warned = upgrade(DATABASE_URL=dropping)
        assert warned.exit_code == 0 and "schema current" in warned.output
        assert "Warning: DATABASE_URL leads to a pooler that drops the options" in warned.output
    at_replica = upgrade(DATABASE_URL=replica_url)
    assert at_replica.exit_code == 1 and "DATABASE_URL leads to a replica, which takes no" in at_replica.output
    assert start(DATABASE_URL=replica_url) is None, "it may be about to take over"
    use_settings(None)
