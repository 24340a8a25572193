"""Warnings of budgets reach LIMITS_WEBHOOK, signed and with retries, and a bad receiver delays nothing."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import REGISTRY
from sqlalchemy import text

from app.cli.webhook import webhook_group
from app.config import ROOT, SettingsError, load_settings
from app.db import get_engine
from app.runtime import Runtime, get_component, get_settings, use_settings
from app.services.limits import BudgetWarning, Limits, Subject
from app.services.webhook import Webhook, messages, sending, start_webhook
from app.services.webhook.messages import make_warning_message, sign
from tests.support.answers import json_answer, redirect
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream, refused_address, unanswered_address
from tests.support.scripts import Step, drip, hang, reset, send
from tests.support.waiting import PATIENCE_S, wait_until

SECRET = base64.b64encode(bytes(range(32))).decode()
TOKEN = "token-of-the-receiver"
HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def receiver() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as receiver:
        receiver.default = json_answer({})
        yield receiver


@pytest.fixture(scope="module")
def url(postgres: Postgres, migrated_template: str) -> Iterator[str]:
    """The database for the tests of this file."""
    url = postgres.create_database(template=migrated_template)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def use_webhook(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Webhook]]:
    """A function that makes an address this process's receiver; attempts and pauses are short."""
    monkeypatch.setattr(messages, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(sending, "PAUSES_S", (0.02, 0.02, 0.02))
    monkeypatch.setattr(sending, "POLL_S", 0.05)

    def use(base_url: str) -> Webhook:
        address = f"{base_url}/hook?key={TOKEN}"
        use_settings(load_settings({"DATABASE_URL": url, "LIMITS_WEBHOOK": address, "LIMITS_WEBHOOK_SECRET": SECRET}))
        execute("TRUNCATE budget, budget_period, budget_lease, budget_warning CASCADE")
        execute(
            "INSERT INTO budget (id, subject_id, unit, amount, time_window) OVERRIDING SYSTEM VALUE"
            " VALUES (17, 'gateway', 'usd', 50, 'month')"
        )
        return get_component(Webhook)

    yield use
    use_settings(None)


def execute(sql: str) -> list[Any]:
    """Executes a statement in the database of this process, and returns its rows."""
    with get_engine().begin() as connection:
        result = connection.execute(text(sql))
        return list(result) if result.returns_rows else []


def warn(sender: Webhook, *warnings: BudgetWarning) -> None:
    """Notes warnings, and starts the sender."""
    for warning in warnings:
        id = warning.period_id
        execute(f"INSERT INTO budget_period (id, budget_id, start_at) VALUES ({id}, 17, to_timestamp({id}))")
        assert sender.note_warning(warning)
        sender.wake(warning)
    sender.start()


def select_messages() -> list[tuple[str, int]]:
    """Returns the id and the attempts of each message in the database, ordered by id."""
    return [tuple(row) for row in execute("SELECT id, attempts FROM budget_warning ORDER BY id")]


def make_warning(period: int = 1, **changes: Any) -> BudgetWarning:
    """Returns a warning about the monthly budget of a holder called alice."""
    subject = Subject("4fGh2Kl9Pq", "holder", "alice", None, (), None, None, None, None, ())
    values = {"unit": "usd", "charged": "41.500000000000", "amount": "50.000000000000"} | changes
    return BudgetWarning(
        subject=subject,
        budget=17,
        window="month",
        percent=80,
        period_id=period,
        resets_at="2026-12-01T00:00:00+00:00",
        **values,
    )


def get_check() -> Callable[[str, dict[str, str], bytes], bool]:
    """Returns the function for receivers in docs/limits.md."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/limits.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    check: Callable[[str, dict[str, str], bytes], bool] = names["is_genuine"]
    return check


def count(result: str) -> float:
    """Returns the number of messages with this result so far."""
    return REGISTRY.get_sample_value("gateway_webhook_messages_total", {"result": result}) or 0.0


def find_logged(log: str, event: str) -> list[dict[str, Any]]:
    """Returns the lines of a log that have this event."""
    return [line for line in map(json.loads, log.splitlines()) if line["event"] == event]


def test_a_warning_arrives_signed_and_the_documented_check_accepts_it_and_nothing_else(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream
) -> None:
    use_webhook(receiver.base_url)
    start_webhook()
    limits, warning = get_component(Limits), make_warning(73014444128)
    execute("INSERT INTO budget_period (id, budget_id, start_at) VALUES (73014444128, 17, now())")
    assert limits.note_warning(warning) and not limits.note_warning(warning)
    limits.on_warning(warning)
    (seen,) = receiver.wait_for_count(1)
    wait_until(lambda: select_messages() == [])
    assert (seen.method, seen.path) == ("POST", f"/inference/v1/hook?key={TOKEN}")
    assert seen.headers["content-type"] == "application/json"
    shown = re.search(
        r"```json\n(.*?)```", (ROOT / "docs/limits.md").read_text().partition("## Warnings")[2], re.DOTALL
    )
    assert shown is not None
    assert seen.json | {"timestamp": None} == json.loads(shown[1]) | {"timestamp": None}
    assert seen.headers["webhook-id"] == seen.json["id"]
    is_genuine = get_check()
    assert is_genuine(SECRET, seen.headers, seen.body)
    assert not is_genuine(SECRET, seen.headers, seen.body.replace(b"41.5", b"14.5"))
    assert not is_genuine(base64.b64encode(bytes(32)).decode(), seen.headers, seen.body)
    assert not is_genuine(SECRET, seen.headers | {"webhook-id": "budget-1-80"}, seen.body)
    old = str(int(seen.headers["webhook-timestamp"]) - 600)
    signature = sign(SECRET, seen.json["id"], old, seen.body)
    assert not is_genuine(SECRET, seen.headers | {"webhook-timestamp": old, "webhook-signature": signature}, seen.body)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    # Made by version 1.1.0 of the library `standardwebhooks`.
    expected = "v1,I+mmfHXCVGM2j0gXM+mN3VgLBeQrDtSnUx7CFBKs3o8="
    assert sign(SECRET, "budget-17-80", "1795348800", b'{"type":"budget.warning"}') == expected
    assert sign(f"whsec_{SECRET}", "budget-17-80", "1795348800", b'{"type":"budget.warning"}') == expected


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (json_answer({}, 500), "answered 500"),
        (redirect("http://127.0.0.1:9/elsewhere"), "answered 307, a redirect, which is not followed"),
        ([hang()], "no answer within 0.3 s"),
        ([drip(HEAD + b"x-long: " + b"x" * 1000, 1, 0.02)], "no answer within 0.3 s"),
        ([reset()], "the connection broke before the answer"),
        ([send(b"220 smtp.example.com ready\r\n\r\n")], "the connection broke before the answer"),
    ],
    ids=["500", "redirect", "hang", "drip", "reset", "not http"],
)
def test_a_message_that_was_not_accepted_is_sent_again(
    use_webhook: Callable[[str], Webhook],
    receiver: ScriptedUpstream,
    capfd: pytest.CaptureFixture[str],
    script: list[Step],
    reason: str,
) -> None:
    before = count("retried"), count("delivered")
    receiver.enqueue(script, script)
    warn(use_webhook(receiver.base_url), make_warning())
    first, second, third = receiver.wait_for_count(3)
    assert first.body == second.body == third.body
    assert {seen.headers["webhook-id"] for seen in (first, second, third)} == {"budget-1-80"}
    wait_until(lambda: count("delivered") > before[1])
    assert count("retried") == before[0] + 2
    log = capfd.readouterr().err
    assert [line["reason"] for line in find_logged(log, "webhook_message_delayed")] == [reason]
    assert [line["attempts"] for line in find_logged(log, "webhook_message_delivered")] == [3]


def test_the_body_of_the_answer_is_not_read_however_large_it_is(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream
) -> None:
    endless = [
        send(HEAD + b"transfer-encoding: chunked\r\n\r\n"),
        *[send(b"10000\r\n" + b"x" * 65536 + b"\r\n")] * 2000,
    ]
    receiver.enqueue(endless)
    warn(use_webhook(receiver.base_url), make_warning(1), make_warning(2))
    first, _ = receiver.wait_for_count(2)
    wait_until(lambda: first.gone_at is not None and select_messages() == [])
    assert first.bytes_sent < 20_000_000 and not first.finished


@pytest.mark.parametrize("place", [refused_address, unanswered_address], ids=["refused", "unanswered"])
def test_a_message_is_given_up_after_all_attempts_and_the_log_has_what_it_said(
    use_webhook: Callable[[str], Webhook], capfd: pytest.CaptureFixture[str], place: Any
) -> None:
    before = count("given_up")
    with place() as base_url:
        warn(use_webhook(base_url), make_warning(5))
        wait_until(lambda: count("given_up") > before and select_messages() == [])
    log = capfd.readouterr().err
    (line,) = find_logged(log, "webhook_message_failed")
    assert line["attempts"] == 4 and json.loads(line["body"])["data"]["subject"]["name"] == "alice"
    assert line["reason"] in {"cannot connect", "no answer within 0.3 s"}
    assert TOKEN not in log and SECRET not in log


def test_a_mistake_in_an_attempt_is_an_attempt(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream, capfd: pytest.CaptureFixture[str]
) -> None:
    before = count("given_up")
    sender = use_webhook(receiver.base_url)
    # A secret that is not base64, which no setting allows.
    sender.settings = dataclasses.replace(sender.settings, limits_webhook_secret="x")
    warn(sender, make_warning(6))
    wait_until(lambda: count("given_up") > before and select_messages() == [])
    log = capfd.readouterr().err
    assert len(find_logged(log, "webhook_attempt_failed")) == 4
    (line,) = find_logged(log, "webhook_message_failed")
    assert line["reason"] == "a mistake in the gateway: Error" and receiver.requests == []


def test_a_message_that_nobody_accepts_does_not_hold_up_the_others(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PAUSES_S", (600.0,))
    receiver.enqueue(json_answer({}, 400))
    warn(use_webhook(receiver.base_url), *map(make_warning, range(3)))
    assert [seen.json["id"] for seen in receiver.wait_for_count(3)] == ["budget-0-80", "budget-1-80", "budget-2-80"]
    wait_until(lambda: select_messages() == [("budget-0-80", 1)])


def test_what_a_worker_leaves_is_sent_by_another(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "TIMEOUT_S", PATIENCE_S)
    before = count("delivered"), count("given_up")
    receiver.enqueue([hang()])
    sender = use_webhook(receiver.base_url)
    warn(sender, make_warning(1), make_warning(2))
    receiver.wait_for_count(1)
    sender.stop(0.05)  # It would take a minute if it waited for the attempt.
    # Another worker with the same settings does not touch the message that this one is sending.
    other = Runtime(get_settings())
    other.get(Webhook).start()
    wait_until(lambda: select_messages() == [("budget-1-80", 1)])
    # The other worker sends that message once this one has ended, or was killed and its journal was adopted.
    execute(
        "INSERT INTO worker (worker_id, boot_id, host, pid, version, started_at, last_seen_at, closed_at, closed_how)"
        f" VALUES ('{sender.runtime.worker_id}', 'boot', 'host', 1, '1', now(), now(), now(), 'adopted')"
    )
    wait_until(lambda: select_messages() == [])
    other.close()
    assert [seen.json["id"] for seen in receiver.requests] == ["budget-1-80", "budget-2-80", "budget-1-80"]
    assert (count("delivered"), count("given_up")) == (before[0] + 2, before[1])


def test_messages_that_came_just_before_the_stop_are_sent_and_retries_are_left_to_others(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PAUSES_S", (600.0,))
    receiver.enqueue(json_answer({}, 503))
    sender = use_webhook(receiver.base_url)
    warn(sender, make_warning(1))
    wait_until(lambda: execute("SELECT FROM budget_warning WHERE attempts = 1 AND worker_id IS NULL"))
    warn(sender, make_warning(2), make_warning(3))
    sender.stop(PATIENCE_S)
    assert [seen.json["id"] for seen in receiver.requests] == ["budget-1-80", "budget-2-80", "budget-3-80"]
    assert select_messages() == [("budget-1-80", 1)]
    # A message that could not be sent for a week is dropped as old news.
    execute("UPDATE budget_warning SET made_at = now() - interval '8 days', due_at = now()")
    use_settings(get_settings())
    get_component(Webhook).start()
    wait_until(lambda: select_messages() == [])
    assert len(receiver.requests) == 3


@pytest.mark.parametrize(
    ("changes", "shown", "percent"),
    [
        ({"unit": "tokens", "charged": "4999", "amount": "5000"}, "5,000 tokens (month)", 99),
        ({"charged": "0.100000000000", "amount": "0.000000000000"}, "0.00 USD (month)", 100),
        ({"charged": "61.000000000000"}, "50.00 USD (month)", 122),
    ],
)
def test_the_text_names_the_amount_and_the_share(changes: dict[str, str], shown: str, percent: int) -> None:
    message = make_warning_message(make_warning(**changes))
    assert message.text.startswith(f"The holder alice has used {percent}% of its budget of {shown}.")
    assert message.data is not None and message.data.used_percent == percent


def test_the_command_says_whether_the_test_message_arrived(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream
) -> None:
    receiver.enqueue(json_answer({}), json_answer({}, 401))
    use_webhook(receiver.base_url)
    done = CliRunner().invoke(webhook_group, ["test"])
    assert (done.exit_code, done.output) == (0, "The receiver accepted the test message.\n")
    assert receiver.requests[0].json["type"] == "test"
    assert get_check()(SECRET, receiver.requests[0].headers, receiver.requests[0].body)
    refused = CliRunner().invoke(webhook_group, ["test"])
    assert refused.exit_code == 1 and "did not accept the message: answered 401." in refused.output
    use_settings(load_settings({}))
    unset = CliRunner().invoke(webhook_group, ["test"])
    assert unset.exit_code == 1 and "LIMITS_WEBHOOK is not set" in unset.output


def test_an_address_without_a_secret_is_refused() -> None:
    with pytest.raises(SettingsError, match="LIMITS_WEBHOOK_SECRET is not"):
        load_settings({"LIMITS_WEBHOOK": "https://example.com/hook"})


def test_under_gevent_one_limit_holds_for_everything_together() -> None:
    """Runs webhook_waits.py: look-ups, connects, handshakes and answers that never end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.services.webhook_waits"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    ended = "no answer within 0.3 s, others ran, 0 sockets left"
    cases = ("drip", "tls", "name", "addresses")
    assert done.stdout.splitlines() == [f"{case}: {ended}" for case in cases], done.stderr
