"""The log is one JSON line per event, and no field or traceback shows a key or password."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.config import get_secrets, load_settings
from app.logs import LineBudget, hide_secrets, log_event, redact, set_request_id
from app.runtime import use_settings
from tests.support.soak import examples

# Concatenated, so that secret scanners do not report them.
CANARIES = [
    *(prefix + "Canary" * 3 for prefix in ("fw_", "gw_", "rc_", "cpk_", "sk-", "FW_")),
    "gw_" + "0" * 10 + "_" + "Canary" * 5,
    "cpk_" + "Canary.Canary.1",
    "sk-" + "Canary-Canary-1",
    "Bearer Canary+/=token",
    "bearer  Canary",
    "postgresql+psycopg2://user:Canary@host:5432/name",
    "postgres://user:p:Canary/0@host/name",
    "postgres://user:Canary@Canary@host/name",
]
AROUND = [
    "{}",
    "key={}",
    "'{}'",
    '"{}"',
    "x\n{}\ny",
    "\t{}",
    "\r\n{}",
    "\\{}",
    "https://host/?key={}&a=b",
    "({})",
]


def lines_of(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    written = capfd.readouterr().err
    assert written.endswith("\n")
    return [json.loads(line) for line in written.splitlines()]


def leaks(text: str) -> bool:
    return "canary" in text.lower()


@pytest.mark.parametrize("canary", CANARIES)
def test_a_secret_is_redacted_wherever_it_stands(canary: str) -> None:
    for around in AROUND:
        redacted = redact(around.format(canary))
        assert not leaks(redacted) and "[redacted]" in redacted, around


@pytest.mark.parametrize("around", AROUND)
def test_no_secret_passes_the_log_in_a_field_or_a_traceback(around: str, capfd: pytest.CaptureFixture[str]) -> None:
    text = " and ".join(around.format(canary) for canary in CANARIES)
    try:
        raise ValueError(text)
    except ValueError as error:
        log_event("failed", level="error", error=error, text=text, nested={"list": [text]}, other=error)
        log_event(text, path=text)
    written = capfd.readouterr().err
    assert not leaks(written) and written.count("\n") == 2
    for line in written.splitlines():
        assert isinstance(json.loads(line), dict)
    assert "Traceback" in written and "ValueError" in written


@pytest.mark.parametrize(
    "text",
    [
        "",
        "accounts/fireworks/models/x",
        "the fw_ prefix",
        "sk-1",
        "row_number",
        "postgresql://host:5432/name",
        "postgresql://user:@host/name",
        "postgres:// a:b@c",
        "mail a@b.c",
        "bearer",
        "task-force-of-many",
        "https://host/arc_length_of_circle",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.fixture
def hidden() -> Iterator[tuple[str, ...]]:
    """Secrets that are configured while a test runs, none of which has the shape of a key."""
    secrets = ("Willow*River+9", 'a"quoted\\one', "Willow*River+9 and more")
    hide_secrets((*secrets, "short"))
    yield secrets
    hide_secrets([])


def test_a_configured_secret_is_redacted_in_any_form(
    hidden: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    for secret in hidden:
        for form in (secret, secret.upper(), quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1]):
            assert redact(f"x{form}y{form}") == "x[redacted]y[redacted]"
        log_event("told", text=f"\n{secret}", nested={secret: [secret]})
    assert "short" in redact("short") and "river" not in capfd.readouterr().err.lower()
    hide_secrets(["an entirely different one"])
    assert redact(hidden[0]) == hidden[0] and redact("") == ""


def test_the_secrets_of_the_settings_are_its_keys_and_the_password_of_the_database() -> None:
    texts = {
        "CHUTES_API_KEY": "one",
        "GATEWAY_API_KEY": "two-of-sixteen-letters",
        "DATABASE_URL": "postgres://user:p%40ss@host/name",
    }
    assert sorted(get_secrets(load_settings(texts))) == ["one", "p%40ss", "p@ss", "two-of-sixteen-letters"]
    assert get_secrets(load_settings({})) == []


@pytest.mark.parametrize(
    ("url", "passwords"),
    [
        ("u:se#cretpw99@h/db", {"se#cretpw99"}),
        ("u:se[cretpw99@h/db", {"se[cretpw99"}),
        ("u:se]cret:pw99@[::1]:5432/db", {"se]cret:pw99"}),
        ("h/db?user=u&password=secretpw99", {"secretpw99"}),
        ("h/db?password=se#cret%2Bp+w99", {"se#cret%2Bp+w99", "se#cret+p+w99", "se#cret+p w99"}),
        ("u:one-of-two@h/db?sslmode=require&sslpassword=two%26two", {"one-of-two", "two%26two", "two&two"}),
        ("h/db?passfile=/x", set()),
        ("u@h:5432/db", set()),
        ("/db", set()),
    ],
)
def test_the_password_of_the_database_is_found_wherever_it_is_written(url: str, passwords: set[str]) -> None:
    assert set(get_secrets(load_settings({"DATABASE_URL": f"postgresql://{url}"}))) == passwords


def test_a_runtime_hides_the_secrets_of_its_settings() -> None:
    use_settings(load_settings({"DEEPINFRA_API_KEY": "Willow*River+9"}))
    assert redact("Willow*River+9") == "[redacted]"
    use_settings(load_settings({}))
    assert redact("Willow*River+9") == "Willow*River+9"


def test_a_database_address_without_a_password_hides_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    log_event("boot", a="postgresql://host:5432/name", b="someone@example.org")
    assert lines_of(capfd)[0]["b"] == "someone@example.org"


def test_a_line_has_its_time_level_event_and_fields(capfd: pytest.CaptureFixture[str]) -> None:
    log_event("request", status=200, key=None, duration_ms=1.5)
    log_event("breaker open", level="error", provider="fireworks")
    first, second = lines_of(capfd)
    assert first.pop("time").endswith("Z") and len(second["time"]) == len("2026-01-01T00:00:00.000Z")
    assert first == {"level": "info", "event": "request", "status": 200, "key": None, "duration_ms": 1.5}
    assert (second["level"], second["provider"]) == ("error", "fireworks")


def test_strangers_cause_few_lines_and_what_is_left_out_is_counted(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1_000.0
    monkeypatch.setattr("app.logs.time.monotonic", lambda: now_s)
    budget = LineBudget()
    taken = [budget.take() for _ in range(5_000)]
    assert sum(taken) == sum(taken[: LineBudget.LINES]) == LineBudget.LINES
    now_s += 60.0
    taken = [budget.take() for _ in range(500)]
    assert sum(taken) == 60 * LineBudget.LINES_PER_SECOND
    (line,) = lines_of(capfd)
    assert (line["event"], line["count"], line["level"]) == ("request_lines_omitted", 4_000, "warning")


def test_line_ends_in_values_do_not_end_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    log_event("request", path="/a\nb\r\n\u2028{}", more=["\n"])
    written = capfd.readouterr().err
    assert written.count("\n") == 1
    assert json.loads(written)["path"] == "/a\nb\r\n\u2028{}"


def test_any_value_can_be_logged(capfd: pytest.CaptureFixture[str]) -> None:
    log_event(
        "odd", value=object(), number=float("nan"), large=10**30, raw=b"\xff", kind={1, 2}, error_=ValueError("x")
    )
    log_event("surrogate", value="\ud800", more=object())
    written = capfd.readouterr().err.splitlines()
    assert json.loads(written[0])["event"] == "odd"
    assert json.loads(written[1])["value"] == "\ud800"


@settings(max_examples=examples(100), deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.text(max_size=30), max_size=3), st.sampled_from(CANARIES))
def test_redaction_keeps_a_line_of_json_a_line_of_json(fields: dict[str, str], canary: str) -> None:
    line = json.dumps({**fields, "z": canary, "zz": "end@example.org"}, ensure_ascii=False)
    redacted = redact(line)
    assert json.loads(redacted)["zz"] == "end@example.org" and not leaks(redacted)


def test_a_traceback_has_the_id_of_the_request_that_its_greenlet_serves(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(request_id: str) -> None:
        set_request_id(request_id)
        barrier.wait(20)  # Until the other one has set its own.
        try:
            raise ValueError(request_id)
        except ValueError as error:
            log_event("task_failed", error=error)
        log_event("task_done")

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=fail, args=[name]) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    failed = [line for line in lines if line["event"] == "task_failed"]
    assert {line["request_id"] for line in failed} == {"one", "two"}
    assert all(f"ValueError: {line['request_id']}" in line["traceback"] for line in failed)
    assert not any("request_id" in line for line in lines if line["event"] == "task_done")
