"""`bin/gateway doctor` names each mistake of a set-up right, all of them at once, and none where there is none."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.config import load_settings, setting_names
from app.db import get_engine
from app.doctor import examine
from app.runtime import use_settings
from tests.db.rows import insert_rows, make_row
from tests.support.answers import json_answer
from tests.support.gateway import GATEWAY_KEY, Gateway, clean_environment
from tests.support.keys import create_key
from tests.support.postgres import Postgres
from tests.support.prefix_proxy import running_prefix_proxy
from tests.support.scripted_upstream import ScriptedUpstream, refused_address
from tests.support.tls_server import TlsServer
from tests.support.unprivileged import run_to_end

AWAY = "postgresql://x@/x?host=/nonexistent"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A function that examines a set-up with settings, and returns check → its findings as `status: text`."""
    for name in (*setting_names(), "DYNO", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)

    def run(url: str | None = None, **settings: str) -> dict[str, list[str]]:
        with monkeypatch.context() as context:
            for name, value in ({"JOURNAL_DIR": str(tmp_path / "journal")} | settings).items():
                context.setenv(name, value)
            results: dict[str, list[str]] = {}
            for result in examine(url):
                results.setdefault(result.check, []).append(f"{result.status}: {result.text}")
            return results

    yield run
    use_settings(None)


def test_a_sound_set_up_has_no_finding(
    found: Any, session_database_url: str, scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    settings = upstream.settings | {"GATEWAY_API_KEY": GATEWAY_KEY, "DATABASE_URL": session_database_url}
    results = found(scripted_gateway.url, **settings, WEB_CONCURRENCY="1")
    left = [line for name, lines in results.items() if name not in {"records", "costs", "keys"} for line in lines]
    assert [line for line in left if not line.startswith("ok: ")] == []
    assert results["fireworks"] == ["ok: FIREWORKS_API_KEY, key 1 is accepted, the list begins with 1 models"]
    assert results["buffering"][0].startswith("ok: events arrive one by one") and results["body_limit"]
    with running_prefix_proxy(scripted_gateway.port, "/below") as url:
        behind = found(url, **settings)
    assert behind["buffering"] == [
        "fail: the proxy holds events back and sends them together. Switch buffering off for /v1."
    ]
    refused = found(scripted_gateway.url, GATEWAY_API_KEY="another_key_of_an_operator", DATABASE_URL=AWAY)
    assert refused["stream"][0].startswith("fail: the gateway there refuses GATEWAY_API_KEY.")
    with refused_address() as nowhere:
        assert found(nowhere, DATABASE_URL=AWAY)["url"][0].startswith("fail: 127.0.0.1 does not answer as a gateway")


def test_each_wrong_setting_is_named_and_what_can_be_checked_is(found: Any, tmp_path: Path) -> None:
    prices, blocked = tmp_path / "prices.toml", tmp_path / "file"
    prices.write_text("[nothing")
    blocked.touch()
    results = found(
        RETENTION_DAYS="many",
        PORT="0",
        DRAIN_TIMEOUT="500",
        GRACEFUL_TIMOUT="600",
        GUNICORN_CMD_ARGS="-k sync",
        DYNO="web.1",
        GRACEFUL_TIMEOUT="40",
        PRICE_FILE=str(prices),
        JOURNAL_DIR=str(blocked / "journal"),
        DATABASE_URL=AWAY,
        WEB_CONCURRENCY="256",
        MAX_LIVE_REQUESTS="100000",
    )
    failed = [line for line in results["settings"] if line.startswith("fail: ")]
    assert [line.split()[1] for line in failed] == ["PORT", "RETENTION_DAYS", "DRAIN_TIMEOUT"]
    (unknown,) = [line for line in results["settings"] if line.startswith("warn: ")]
    assert unknown == "warn: GRACEFUL_TIMOUT is not a setting, so it has no effect. Did you mean GRACEFUL_TIMEOUT?"
    assert results["gunicorn"][0].startswith("fail: GUNICORN_CMD_ARGS names a worker class")
    assert "silent for 30 s" in results["platform"][0] and len(results["platform"]) >= 2
    assert results["prices"][0].startswith("fail: ") and "prices.toml" in results["prices"][0]
    assert results["journal_directory"][0].startswith("fail: JOURNAL_DIR is ")
    assert results["provider_keys"][0].startswith("warn: no provider has a key")
    assert results["database"][0].startswith("fail: The database does not answer")
    assert results["workers"][0].startswith("warn: WEB_CONCURRENCY is 256")
    assert results["open_files"][0].startswith("warn: with a hard limit of")


def test_what_is_wrong_with_a_provider_is_named(
    found: Any, upstream: ScriptedUpstream, certificate: tuple[Path, Path]
) -> None:
    refusal = json_answer({"error": {"message": "no"}}, status=401)
    upstream.on_path("/models", refusal)
    with refused_address() as closed, TlsServer(*certificate) as foreign:
        results = found(
            DATABASE_URL=AWAY,
            **upstream.settings | {"FIREWORKS_API_KEY": "fw_one,fw_two"},
            FEATHERLESS_API_KEY="rc_REPLACE_ME",
            FEATHERLESS_BASE_URL=closed,
            DEEPINFRA_API_KEY="di_REPLACE_ME",
            DEEPINFRA_BASE_URL=f"https://127.0.0.1:{foreign.port}/v1",
            CHUTES_API_KEY="cpk_REPLACE_ME",
            CHUTES_BASE_URL="https://nowhere.invalid/v1",
        )
    assert [line.partition(".")[0] for line in results["fireworks"]] == [
        f"fail: Fireworks refuses FIREWORKS_API_KEY, key {number}" for number in (1, 2)
    ]
    assert "Connection refused" in results["featherless"][0] and "FEATHERLESS_BASE_URL" in results["featherless"][0]
    assert results["deepinfra"][0].startswith("fail: TLS to 127.0.0.1 fails (self-signed certificate)")
    assert results["chutes"][0].startswith("fail: DNS knows no nowhere.invalid")


def test_what_is_wrong_with_the_database_is_named(found: Any, postgres: Postgres, database_url: str) -> None:
    empty = postgres.create_database()
    assert "Run `bin/gateway db upgrade`" in found(DATABASE_URL=empty)["database"][0]
    postgres.drop_database(empty)
    use_settings(load_settings({"DATABASE_URL": database_url}))
    yesterday, soon = datetime.now(UTC) - timedelta(hours=20), datetime.now(UTC) + timedelta(days=2)
    insert_rows(
        get_engine(), [make_row(started_at=yesterday, cost_usd=None, cost_kind="unknown", model_served="unpriced")]
    )
    _, key = create_key("soon", expires_at=soon)
    create_key("later", expires_at=soon + timedelta(days=300))
    with get_engine().begin() as connection:
        connection.execute(text("ALTER TABLE api_key ADD COLUMN stray text"))
    results = found(DATABASE_URL=database_url)
    assert results["costs"] == [
        "warn: models of the last 7 days lack a price: fireworks/unpriced. Add them to PRICE_FILE."
    ]
    (expiring,) = results["keys"]
    assert expiring.startswith(f"warn: the key {key.id} (soon) expires at ") and f"keys rotate {key.id}" in expiring
    assert results["tables"][0].startswith("warn: 1 differences")
    assert results["records"][0].startswith("fail: requests have no record.")
    assert results["database"][0].startswith("ok: PostgreSQL ") and results["clock"][0].startswith("ok: ")


def test_the_command_works_where_a_setting_is_malformed(tree: Path) -> None:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "doctor", "--json"]
    code, said = run_to_end(command, tree, clean_environment() | {"RETENTION_DAYS": "many", "DATABASE_URL": AWAY})
    results = [json.loads(line) for line in said.splitlines()]
    assert code == 1 and {"check": "settings", "status": "fail"}.items() <= results[1].items()
    assert results[1]["text"].startswith("RETENTION_DAYS is 'many'")
