"""`bin/gateway doctor` names every mistake in a set-up correctly and at once, and reports none in a sound one."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.config import load_settings, setting_names
from app.db import get_engine
from app.doctor import examine
from app.doctor.url_checks import check_url
from app.runtime import use_settings
from app.upstream import get_tls_context
from tests.db.rows import insert_rows, make_row
from tests.support.answers import json_answer
from tests.support.database_clock import shift_clock
from tests.support.gateway import GATEWAY_KEY, Gateway, clean_environment
from tests.support.keys import create_key
from tests.support.postgres import Postgres
from tests.support.prefix_proxy import running_prefix_proxy
from tests.support.scripted_upstream import ScriptedUpstream, refused_address
from tests.support.soak import soak_only
from tests.support.spoiling_proxy import SPOILS, running_spoiling_proxy
from tests.support.tls_server import TlsServer
from tests.support.unprivileged import run_to_end

AWAY = "postgresql://x@/x?host=/nonexistent"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A function that examines a set-up with settings, and returns check → its findings as `status: text`."""
    for name in (*setting_names(), "DYNO", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)

    def run(url: str | None = None, paid: bool = False, **settings: str) -> dict[str, list[str]]:
        with monkeypatch.context() as context:
            for name, value in ({"JOURNAL_DIR": str(tmp_path / "journal")} | settings).items():
                context.setenv(name, value)
            results: dict[str, list[str]] = {}
            for result in examine(url, paid=paid):
                results.setdefault(result.check, []).append(f"{result.status}: {result.text}")
            return results

    yield run
    use_settings(None)


def test_a_sound_set_up_has_no_finding(
    found: Any, session_database_url: str, scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    settings = upstream.settings | {"GATEWAY_API_KEY": GATEWAY_KEY, "DATABASE_URL": session_database_url}
    # A module that `make speedups` built from earlier code would be a finding.
    settings |= {"STREAM_HEARTBEAT": "0.1", "COMPILED_EVENTS": "false"}
    settings |= {"JOURNAL_DIR": str(scripted_gateway.place / "journal"), "PORT": str(scripted_gateway.port)}
    results = found(scripted_gateway.url, **settings, WEB_CONCURRENCY="1")
    left = [line for name, lines in results.items() if name not in {"records", "costs", "keys"} for line in lines]
    assert [line for line in left if not line.startswith("ok: ")] == []
    assert results["fireworks"] == ["ok: FIREWORKS_API_KEY, key 1 is accepted, the list begins with 1 models"]
    assert results["port"] == [f"ok: a gateway answers at port {scripted_gateway.port}"]
    assert results["buffering"][0].startswith("ok: events arrive one by one") and results["body_limit"]
    with refused_address() as nowhere:
        assert found(nowhere, DATABASE_URL=AWAY)["url"][0].startswith("fail: 127.0.0.1 does not answer as a gateway")


# A proxy's misbehaviour → the check that names it, and the beginning of its finding.
SPOILED = {
    "drops_request_id": ("headers", "fail: the header x-request-id of the answer is gone."),
    "drops_authorization": ("stream", "fail: the gateway there refuses GATEWAY_API_KEY."),
    "refuses_large_bodies": ("body_limit", "fail: the proxy refuses bodies of 20971520 bytes"),
    "answers_health_itself": ("url", "fail: /health has status 200 and is not the gateway's."),
    "has_another_version": ("url", "warn: the gateway there is 9."),
    "compresses": ("compression", "fail: the proxy compresses streams (gzip)"),
    "holds_back": ("buffering", "fail: the proxy holds events back"),
    "cuts_stream": ("stream", "fail: the test stream breaks off, although"),
    "cuts_silence": ("silence", "fail: a proxy ends answers that are silent for 2 s."),
    "is_herokus": ("platform", "warn: Heroku's router cuts answers that are silent for 30 s."),
}


def test_each_thing_that_a_proxy_spoils_is_named_and_nothing_else(scripted_gateway: Gateway) -> None:
    use_settings(load_settings({"GATEWAY_API_KEY": GATEWAY_KEY, "STREAM_HEARTBEAT": "0.5"}))

    def check(spoil: str) -> list[tuple[str, str]]:
        with running_spoiling_proxy(scripted_gateway.port, spoil) as url:
            return [(result.check, f"{result.status}: {result.text}") for result in check_url(url)]

    def check_all() -> list[tuple[str, str]]:
        together = "compresses", "cuts_silence", "drops_request_id", "has_another_version"
        with running_spoiling_proxy(scripted_gateway.port, *together) as url:
            return [(result.check, result.status) for result in check_url(url)]

    assert SPOILED.keys() == set(SPOILS) - {"nothing"}
    with ThreadPoolExecutor(len(SPOILS) + 2) as pool:
        all_at_once = pool.submit(check_all)
        longer = pool.submit(lambda: list(check_url(scripted_gateway.url.replace("127.0.0.1", "2130706433"), 3)))
        found = dict(zip(SPOILS, pool.map(check, SPOILS), strict=True))
    use_settings(None)
    # No finding hides another: all checks have a result.
    assert all_at_once.result() == [
        ("url", "warn"), ("headers", "fail"), ("body_limit", "ok"), ("compression", "fail"), ("forwarding", "ok"),
        ("buffering", "ok"), ("silence", "fail"),
    ]  # fmt: skip
    assert {line[:3] for _, line in found.pop("nothing")} == {"ok:"}
    for spoil, results in found.items():
        name, beginning = SPOILED[spoil]
        wrong = [(check, line) for check, line in results if not line.startswith("ok: ")]
        assert [check for check, _ in wrong] == [name] and wrong[0][1].startswith(beginning), (spoil, wrong)
    # A plain number is an address too, and not one known to be this machine's.
    strange = {result.check: f"{result.status}: {result.text}" for result in longer.result()}
    assert strange["tls"].startswith("fail: clients send their keys unencrypted.")
    assert strange["silence"].startswith("ok: an answer that is silent for 3 s passes")


def test_a_proxy_that_hides_https_or_waits_too_short_for_whole_answers_is_named(
    found: Any, scripted_gateway: Gateway, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    get_tls_context.cache_clear()
    use_settings(load_settings({"GATEWAY_API_KEY": GATEWAY_KEY, "STREAM_HEARTBEAT": "0.2"}))
    with (
        running_prefix_proxy(scripted_gateway.port, "/below", certificate) as https,
        running_spoiling_proxy(scripted_gateway.port, "cuts_silence") as short,
        ThreadPoolExecutor(1) as pool,
    ):
        shorter = pool.submit(lambda: list(check_url(short, 3)))
        hidden = {result.check: result for result in check_url(https)}
        (silence,) = [result for result in shorter.result() if result.check == "silence"]
    get_tls_context.cache_clear()
    assert silence.status == "warn" and "or let clients stream: then something is sent every 0.2 s" in silence.text
    assert "tls" not in hidden and hidden["buffering"].status == "fail"
    assert hidden["forwarding"].text.startswith("clients use https, and the gateway believes http.")
    for address in ("ftp://gateway.example.com", "https://"):
        assert found(address, DATABASE_URL=AWAY)["url"][0].startswith(f"fail: {address!r} is not an address.")


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
    killed = found(DYNO="web.1", GRACEFUL_TIMEOUT="40", DATABASE_URL=AWAY)
    assert [line[:30] for line in killed["platform"]] == [
        "warn: Heroku's router cuts ans", "fail: Heroku kills a process 3", "warn: Heroku's disks do not su",
    ]  # fmt: skip
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
    upstream.on_path("/models", json_answer({"error": {"message": "Account suspended."}}, status=412))
    suspended = found(DATABASE_URL=AWAY, **upstream.settings)["fireworks"][0]
    assert suspended.startswith("fail: FIREWORKS_API_KEY, key 1: ") and "Look into the account at https" in suspended
    upstream.on_path("/models", json_answer({"error": {"message": "boom"}}, status=500))
    assert found(DATABASE_URL=AWAY, **upstream.settings)["fireworks"][0].startswith("warn: FIREWORKS_API_KEY, key 1: ")


def test_a_certificate_that_ends_soon_is_named(
    found: Any, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    get_tls_context.cache_clear()
    with TlsServer(*certificate) as trusted:
        url = f"https://127.0.0.1:{trusted.port}/v1"
        results = found(DATABASE_URL=AWAY, DEEPINFRA_API_KEY="di_REPLACE_ME", DEEPINFRA_BASE_URL=url)
    get_tls_context.cache_clear()
    assert results["deepinfra"][0].startswith("warn: the certificate of 127.0.0.1 ends in 2 days.")


def test_what_is_wrong_with_this_machine_is_named(found: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / "journal"
    journal.mkdir()
    (journal / "rejected.jsonl").write_text("{}\n")
    monkeypatch.setattr("app.doctor.host_checks._LEAST_FREE_BYTES", 1 << 62)  # Makes any disk count as nearly full.
    # As if requirements-traces.txt were not installed; another test may have imported it.
    for name in [name for name in sys.modules if name.startswith("opentelemetry.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    results = found(DATABASE_URL=AWAY, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:4318")
    assert results["journal"][0].startswith(f"warn: the disk of JOURNAL_DIR ({journal}) has ")
    assert results["journal"][1].startswith(f"warn: {journal}/rejected.jsonl has 3 bytes of records")
    assert results["traces"][0].startswith("fail: OTEL_EXPORTER_OTLP_ENDPOINT is set and OpenTelemetry is not")
    assert results["gateway_key"][0].startswith("warn: GATEWAY_API_KEY is not set")


def test_a_paid_request_shows_what_a_free_one_does_not(found: Any, upstream: ScriptedUpstream) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    served = json_answer({"choices": [{"message": {"content": "H"}}], "usage": usage})
    suspended = json_answer({"error": {"message": "Account suspended."}}, status=412)
    failing = json_answer({"error": {"message": "boom"}}, status=500)
    settings = {"DATABASE_URL": AWAY, **upstream.settings}
    assert not any("paid" in check for check in found(**settings))
    assert [seen.method for seen in upstream.requests if seen.method == "POST"] == []
    beginnings = []
    for answer in (served, json_answer({"choices": []}), suspended, failing, json_answer({}, status=401)):
        upstream.on_path("/chat/completions", answer)
        beginnings.append(found(paid=True, **settings)["fireworks paid"][0])
    (ok, no_usage, account, fault, refused) = beginnings
    assert ok == "ok: FIREWORKS_API_KEY, key 1: accounts/fireworks/models/scripted answered with 1 tokens"
    assert no_usage.startswith("warn: FIREWORKS_API_KEY, key 1: the answer of ") and "no usage" in no_usage
    assert account.startswith("fail: FIREWORKS_API_KEY, key 1: ") and "Look into the account" in account
    assert fault.startswith("fail: FIREWORKS_API_KEY, key 1: a request of one token fails: ")
    assert refused.startswith("fail: Fireworks refuses FIREWORKS_API_KEY, key 1.")
    body = json.loads(next(seen.body for seen in upstream.requests if seen.method == "POST"))
    assert body["max_tokens"] == 1 and body["model"] == "accounts/fireworks/models/scripted"


def test_what_is_wrong_with_the_database_is_named(
    found: Any, postgres: Postgres, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = postgres.create_database()
    assert "Run `bin/gateway db upgrade`" in found(DATABASE_URL=empty)["database"][0]
    postgres.drop_database(empty)
    missing = database_url.replace(database_url.partition("?")[0].rpartition("/")[2], "nowhere", 1)
    assert "The database refuses DATABASE_URL" in found(DATABASE_URL=missing)["database"][0]
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
    with get_engine().begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    shift_clock(database_url, "100 seconds")
    monkeypatch.setattr("app.doctor.database_checks.LEAST_VERSION", 990_000)  # There is no older server to test with.
    results = found(DATABASE_URL=database_url)
    assert results["database"][0].endswith("is older than any that was tested. Use 15 or later.")
    assert re.match(r"warn: this machine's clock is (99|100) s behind PostgreSQL's", results["clock"][0])
    assert "tables" not in results  # The code cannot know the tables of a later migration.


def test_the_command_works_where_a_setting_is_malformed(tree: Path) -> None:
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "doctor", "--json"]
    code, said = run_to_end(command, tree, clean_environment() | {"RETENTION_DAYS": "many", "DATABASE_URL": AWAY})
    results = [json.loads(line) for line in said.splitlines()]
    assert code == 1 and {"check": "settings", "status": "fail"}.items() <= results[1].items()
    assert results[1]["text"].startswith("RETENTION_DAYS is 'many'")
    for arguments, code in (["--help"], 0), (["keys", "list"], 1):
        ended, said = run_to_end(
            [sys.executable, "-m", "app.cli", *arguments],
            tree,
            clean_environment() | {"RETENTION_DAYS": "many", "DATABASE_URL": AWAY},
        )
        note = said.splitlines()[-1].strip()
        assert ended == code and note.startswith("A setting is malformed: RETENTION_DAYS is 'many'; it must be ")
        assert note.endswith("Only `doctor` and `version` work until this is mended.")
        assert ("\n  keys  " in said) == said.startswith("Usage: bin/gateway ") == (arguments == ["--help"])
        assert said.count("A setting is malformed") == 1


@soak_only("doctor/test_examination.py::test_the_command_works_where_a_setting_is_malformed")
def test_the_command_works_where_a_file_cannot_be_read_and_prefers_env_local(tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "gateway"
    shutil.copytree(tree, place, ignore=shutil.ignore_patterns("docs", "benchmarks"))
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "doctor", "--json"]

    def run(**settings: str) -> dict[str, str]:
        code, said = run_to_end(command, place, clean_environment() | {"DATABASE_URL": AWAY} | settings)
        assert code == 1, said
        return {each["check"]: each["text"] for each in map(json.loads, said.splitlines())}

    (place / ".env.local").write_text("PORT=8001\n", "utf-16")
    assert "is not in UTF-8" in run(FLASK_SKIP_DOTENV="1")["settings"]
    # flask puts the defaults of .env into the environment, where they must not override this file.
    (place / ".env.local").write_text("WEB_CONCURRENCY=1\nRETENTION_DAYS=7\n")
    found = run(RETENTION_DAYS="90")
    assert "from the environment: DATABASE_URL, RETENTION_DAYS, others from files" in found["settings"]
    assert found["workers"].startswith("1 workers ")
