"""Settings: each bad value is named, empty counts as unset, and the process environment overrides the two files."""

from __future__ import annotations

import dataclasses
import os
from ipaddress import ip_network
from pathlib import Path

import pytest

from app.config import (
    ROOT,
    Settings,
    SettingsError,
    get_secrets,
    load_settings,
    read_environment,
    setting_names,
)
from app.runtime import get_settings, use_settings

BAD_NUMBERS = ["x", "-1", "1.5", "1e3", "0x10", "²", "9" * 20, "9" * 5000, "1 0", "None"]
BAD_SECONDS = ["x", "0", "-1", "nan", "inf", "86401", "1,5", "5s"]
BAD_URLS = [
    "api.fireworks.ai",
    "ftp://host/v1",
    "https://",
    "http://:8000",
    "https://host/v1?x=1",
    "https://host/#x",
    "http://host:port/",
    "http://host:99999/",
    "http://[::1/v1",
    "http://host/v 1",
    "http://host/\u00e9",
]
BAD: dict[str, list[str]] = {
    "FIREWORKS_API_KEY": [
        "fw_test key",
        "fw_tést",
        "“fw_test”",
        "fw\u200b_test",
        '"fw_test"',
        "'fw_test'",
        "fw_test'",
        "`fw_test",
    ],
    "FIREWORKS_BILLING_KEY": ["fw_test key", "a,,b"],
    "FIREWORKS_CONTROL_URL": BAD_URLS,
    "GATEWAY_NAME": ["two words", "a,b", "a=b", "ü", "x" * 65],
    "RECONCILE_BAND": ["99", "101-102", "98-99", "99-250", "a-b", "99%-101%"],
    "FEATHERLESS_API_KEY": ["a\tb"],
    "DEEPINFRA_API_KEY": ["a b"],
    "CHUTES_API_KEY": ["ü"],
    "FIREWORKS_BASE_URL": BAD_URLS,
    "FEATHERLESS_BASE_URL": BAD_URLS,
    "DEEPINFRA_BASE_URL": BAD_URLS,
    "CHUTES_BASE_URL": BAD_URLS,
    "DATABASE_URL": [
        "sqlite:///x.db",
        "mysql://u:p@h/d",
        "postgresql+psycopg://h/d",
        "localhost",
        "postgresql:/h",
        '"postgresql://h/d"',
        "postgresql://u:p@h:port/d",
        "postgresql://u:p@h:0/d",
        "postgresql://u:p@h:65536/d",
        "postgresql://u:p@h:5432,i:port/d",
        "postgresql://u:p@ss@h/d",
        "postgresql://u:p/ss@h/d",
        "postgresql://u:1/ss@h/d",
        "postgresql://u:p?ss@h/d",
        "postgresql://u:1?ss@h/d",
        "postgresql://u:p ss@h/d",
    ],
    "DATABASE_DIRECT_URL": ["sqlite:///x.db", "postgresql://u:p@ss@h/d"],
    "GATEWAY_API_KEY": ["two words of length", "schlüssel-der-betreiber", "fifteen-letters", '"sixteen-letters!"'],
    "METRICS_TOKEN": ["two words of length", "sixteen\tletters!", "fifteen-letters"],
    "HOST": ["x86_64-conda-linux-gnu", "0.0.0.0:8000", "300.1.1.1", "gateway.example"],
    "TRUSTED_PROXIES": ["*", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", "127.0.0.1 ::1"],
    "CORS_ORIGINS": [
        "example.com",
        "https://example.com/app",
        "https://*.example.com",
        "https://a b",
        "*,https://a",
        ",",
    ],
    "PORT": [*BAD_NUMBERS, "0", "65536"],
    "WEB_CONCURRENCY": [*BAD_NUMBERS, "0", "257"],
    "PUBLIC_STATS": ["maybe", "2", "truth"],
    "PRICE_FILE": ["~nobody-has-this-name/prices.toml"],
    "JOURNAL_DIR": ["~nobody-has-this-name/journal"],
    "IDEMPOTENCY_BYTES": [*BAD_NUMBERS, "0"],
    "IDEMPOTENCY_HOURS": [*BAD_NUMBERS, "721"],
    "IDEMPOTENCY_ROWS": [*BAD_NUMBERS, "0"],
    "JOURNAL_FULL": ["drop", "Refuse"],
    "BUDGET_OUTAGE": ["drop", "Serve"],
    "RATE_OUTAGE": ["drop", "Refuse"],
    "BUDGET_STATUS": ["400", "four"],
    "LIMITS_WEBHOOK": [
        *(url for url in BAD_URLS if "?" not in url and url != "https://"),
        "https://user:p@ss@host/hook",
    ],
    "LIMITS_WEBHOOK_SECRET": ["no base64 of a secret", "c2hvcnQ=", "gw_" + "A" * 40, "A" * 92],
    "ROUTING_SORT": ["cheap", "Price"],
    "ROUTING_EQUIVALENTS": ["maybe"],
    "OTEL_EXPORTER_OTLP_ENDPOINT": BAD_URLS,
    "COMPILED_EVENTS": ["maybe", "2"],
    "RESTART_HANDOVER": ["maybe", "2"],
    "RETENTION_DAYS": [*BAD_NUMBERS, "0"],
    "MAX_BODY_BYTES": [*BAD_NUMBERS, "1023"],
    "MAX_LIVE_REQUESTS": [*BAD_NUMBERS, "0"],
    "MAX_REFUSALS_PER_SECOND": [*BAD_NUMBERS, "0"],
    "UPSTREAM_CONNECT_TIMEOUT": BAD_SECONDS,
    "UPSTREAM_FIRST_BYTE_TIMEOUT": BAD_SECONDS,
    "UPSTREAM_IDLE_TIMEOUT": BAD_SECONDS,
    "UPSTREAM_TOTAL_TIMEOUT": BAD_SECONDS,
    "UPSTREAM_RETRIES": [*BAD_NUMBERS, "11"],
    "FALLBACK_AFTER": BAD_SECONDS,
    "STREAM_HEARTBEAT": BAD_SECONDS,
    "CLIENT_SEND_TIMEOUT": BAD_SECONDS,
    "CLIENT_BODY_TIMEOUT": BAD_SECONDS,
    "GRACEFUL_TIMEOUT": BAD_SECONDS,
    "DRAIN_TIMEOUT": BAD_SECONDS,
}


def test_every_setting_has_bad_values_here() -> None:
    assert sorted(BAD) == sorted(setting_names())


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_bad_value_is_refused_by_the_name_of_its_setting(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({name: value})
    assert str(caught.value).startswith(name)
    if "KEY" in name or name in {"DATABASE_URL", "DATABASE_DIRECT_URL", "LIMITS_WEBHOOK", "LIMITS_WEBHOOK_SECRET"}:
        assert value not in str(caught.value), "a secret is not repeated"
    assert "ss@h" not in str(caught.value), "no part of a password is repeated"


@pytest.mark.parametrize("name", setting_names())
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_value_counts_as_unset(name: str, value: str) -> None:
    assert load_settings({name: value}) == load_settings({})


def test_the_documented_defaults() -> None:
    settings = load_settings({})
    assert settings.fireworks_api_key == settings.gateway_api_key == () and settings.database_url is None
    assert settings.fireworks_base_url == "https://api.fireworks.ai/inference/v1"
    assert (settings.port, settings.public_stats, settings.max_body_bytes) == (8000, False, 20 << 20)
    assert settings.journal_dir == ROOT / "var/journal"
    assert (settings.upstream_connect_timeout_s, settings.upstream_first_byte_timeout_s) == (5, 120)
    assert (settings.upstream_idle_timeout_s, settings.upstream_total_timeout_s) == (60, 900)
    assert (settings.stream_heartbeat_s, settings.upstream_retries) == (15, 2)


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("PORT", " 9000 ", 9000),
        ("PUBLIC_STATS", "TRUE", True),
        ("PUBLIC_STATS", "off", False),
        ("STREAM_HEARTBEAT", "0.5", 0.5),
        ("UPSTREAM_RETRIES", "0", 0),
        ("FIREWORKS_BASE_URL", "http://127.0.0.1:4711/inference/v1/", "http://127.0.0.1:4711/inference/v1"),
        ("FIREWORKS_BASE_URL", "http://[::1]:4711/v1", "http://[::1]:4711/v1"),
        ("FIREWORKS_API_KEY", " fw_test\n", ("fw_test",)),
        ("JOURNAL_DIR", "/tmp/journal", Path("/tmp/journal")),
        ("JOURNAL_DIR", "elsewhere", ROOT / "elsewhere"),
        ("JOURNAL_DIR", "~/journal", Path.home() / "journal"),
        ("HOST", "[::1]", "::1"),
        ("HOST", "localhost", "127.0.0.1"),
        ("TRUSTED_PROXIES", "10.0.0.0/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1"))),
        ("CORS_ORIGINS", "none", frozenset()),
        (
            "CORS_ORIGINS",
            "HTTPS://A.example:443/, http://b:8080,tauri://localhost",
            frozenset({"https://a.example", "http://b:8080", "tauri://localhost"}),
        ),
        ("DATABASE_URL", "postgres://u:p%40@h:5432/d", "postgresql+psycopg2://u:p%40@h:5432/d"),
        ("DATABASE_URL", "postgresql://h/d?sslmode=require", "postgresql+psycopg2://h/d?sslmode=require"),
        ("DATABASE_URL", "postgresql+psycopg2://h/d", "postgresql+psycopg2://h/d"),
        ("DATABASE_URL", "postgresql://u:a:b%2F@[::1]:5432/d", "postgresql+psycopg2://u:a:b%2F@[::1]:5432/d"),
        ("DATABASE_URL", "postgres://u:p@h,i/d", "postgresql+psycopg2://u:p@h,i/d"),
        ("DATABASE_URL", "postgres://u:p@h:1,[::1]/d?a=b", "postgresql+psycopg2://u:p@/d?host=h,::1&port=1,5432&a=b"),
        ("DATABASE_URL", "postgresql://u@/d?host=/tmp/a@b", "postgresql+psycopg2://u@/d?host=/tmp/a@b"),
        ("GATEWAY_API_KEY", "sixteen-letters!", ("sixteen-letters!",)),
    ],
)
def test_a_good_value_is_parsed(name: str, value: str, parsed: object) -> None:
    row = next(row for row in dataclasses.fields(Settings) if row.metadata["name"] == name)
    assert getattr(load_settings({name: value}), row.name) == parsed


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"UPSTREAM_FIRST_BYTE_TIMEOUT": "10", "UPSTREAM_TOTAL_TIMEOUT": "9"}, "UPSTREAM_TOTAL_TIMEOUT"),
        ({"DRAIN_TIMEOUT": "25"}, "GRACEFUL_TIMEOUT"),
        ({"DRAIN_TIMEOUT": "10", "GRACEFUL_TIMEOUT": "10"}, "GRACEFUL_TIMEOUT"),
    ],
)
def test_settings_that_contradict_each_other_are_both_named(values: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(values)
    assert named in str(caught.value) and next(iter(values)) in str(caught.value)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a `.env`, and a process environment without settings."""
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text("PORT=1001\nWEB_CONCURRENCY=3\nFIREWORKS_API_KEY=\nRETENTION_DAYS=5\n")
    return tmp_path


def test_the_process_goes_before_env_local_and_that_before_env(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / ".env.local").write_text('PORT=1002\nFIREWORKS_API_KEY="fw_test"\nWEB_CONCURRENCY=4\nRETENTION_DAYS=\n')
    monkeypatch.setenv("PORT", "1003")
    settings = load_settings(read_environment(place))
    assert (settings.port, settings.web_concurrency, settings.retention_days) == (1003, 4, 5)
    assert settings.fireworks_api_key == ("fw_test",)


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_value_of_the_process_hides_none_of_a_file(
    place: Path, monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    monkeypatch.setenv("PORT", empty)
    assert load_settings(read_environment(place)).port == 1001


def test_a_key_in_env_works_too(place: Path) -> None:
    (place / ".env").write_text("FIREWORKS_API_KEY=fw_test\n")
    assert load_settings(read_environment(place)).fireworks_api_key == ("fw_test",)


def test_keys_are_lists_of_which_each_is_checked_and_hidden() -> None:
    settings = load_settings(
        {"FIREWORKS_API_KEY": "fw_one , fw_two,fw_one", "GATEWAY_API_KEY": "a" * 16 + "," + "b" * 16}
    )
    assert settings.fireworks_api_key == ("fw_one", "fw_two") and settings.gateway_api_key == ("a" * 16, "b" * 16)
    assert {"fw_one", "fw_two", "a" * 16, "b" * 16} <= set(get_secrets(settings))
    for name, value in {"FIREWORKS_API_KEY": "fw_one,,fw_two", "GATEWAY_API_KEY": "a" * 16 + ",short"}.items():
        with pytest.raises(SettingsError, match=f"^{name} has "):
            load_settings({name: value})


def test_a_byte_order_mark_does_not_hide_the_first_setting(place: Path) -> None:
    (place / ".env.local").write_text("PORT=1002\n", "utf-8-sig")
    assert load_settings(read_environment(place)).port == 1002


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_a_file_that_is_not_utf_8_is_refused_and_named(place: Path, encoding: str) -> None:
    (place / ".env.local").write_text("# Schlüssel\nPORT=1002\n", encoding)
    with pytest.raises(SettingsError, match=r"\.env\.local is not in UTF-8"):
        read_environment(place)


@pytest.mark.parametrize("mistake", ["PORT 1002", '\n\nGATEWAY_API_KEY="abc', "FIREWORKS_API_KEY fw_x"])
def test_a_line_that_is_no_setting_is_refused_and_named(place: Path, mistake: str) -> None:
    (place / ".env.local").write_text(f"# settings\nexport HOST='127.0.0.1'\nUNSET\n{mistake}\nWEB_CONCURRENCY=2\n")
    line = 4 + mistake.count("\n")
    with pytest.raises(SettingsError, match=rf"\.env\.local has a line {line} that is not NAME=value"):
        read_environment(place)


def test_a_directory_in_place_of_a_file_is_refused_and_named(place: Path) -> None:
    (place / ".env.local").mkdir()
    with pytest.raises(SettingsError, match=r"\.env\.local cannot be read \(Is a directory\)"):
        read_environment(place)


def test_without_files_the_process_alone_counts(tmp_path: Path) -> None:
    assert read_environment(tmp_path) == {name: value for name, value in os.environ.items() if value.strip()}


def test_the_settings_of_a_process_are_read_once_and_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    use_settings(None)
    try:
        first = get_settings()
        monkeypatch.setenv("PORT", "1234")
        assert get_settings() is first
        use_settings(None)
        assert get_settings().port == 1234
        mine = load_settings({"PORT": "4321"})
        use_settings(mine)
        assert get_settings() is mine
    finally:
        use_settings(None)


def test_settings_never_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_settings({}).port = 1  # type: ignore[misc]
