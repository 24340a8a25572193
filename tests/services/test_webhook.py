"""Warnings of budgets reach LIMITS_WEBHOOK, signed and repeatedly if need be, and a bad receiver holds nothing up."""

from __future__ import annotations

import base64
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

from app.cli.webhook import webhook_group
from app.config import ROOT, SettingsError, load_settings
from app.runtime import get_component, use_settings
from app.services import webhook
from app.services.limits import BudgetWarning, Limits, Subject
from app.services.webhook import MAX_WAITING, Webhook, sign, start_webhook, stop_webhook
from tests.support.answers import json_answer, redirect
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


@pytest.fixture
def use_webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Webhook]]:
    """A function that makes an address the receiver of this process; attempts and pauses are short."""
    monkeypatch.setitem(vars(webhook), "TIMEOUT_S", 0.3)
    monkeypatch.setitem(vars(webhook), "PAUSES_S", (0.02, 0.02, 0.02))

    def use(base_url: str) -> Webhook:
        address = f"{base_url}/hook?key={TOKEN}"
        use_settings(load_settings({"LIMITS_WEBHOOK": address, "LIMITS_WEBHOOK_SECRET": SECRET}))
        return get_component(Webhook)

    yield use
    use_settings(None)


def make_warning(period: int = 1, **changes: Any) -> BudgetWarning:
    """Returns a warning of the month's budget of a holder called alice."""
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
    """Returns the function that docs/limits.md shows to receivers."""
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/limits.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    check: Callable[[str, dict[str, str], bytes], bool] = names["is_genuine"]
    return check


def count(result: str) -> float:
    """Returns how many messages had this result so far."""
    return REGISTRY.get_sample_value("gateway_webhook_messages_total", {"result": result}) or 0.0


def find_logged(text: str, event: str) -> list[dict[str, Any]]:
    """Returns the lines of a log that have this event."""
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == event]


def test_a_warning_arrives_signed_and_the_documented_check_accepts_it_and_nothing_else(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream
) -> None:
    use_webhook(receiver.base_url)
    start_webhook()
    get_component(Limits).on_warning(make_warning(73014444128))
    (seen,) = receiver.wait_for_count(1)
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
    use_webhook(receiver.base_url).send_warning(make_warning())
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
    sender = use_webhook(receiver.base_url)
    sender.send_warning(make_warning(1))
    sender.send_warning(make_warning(2))
    first, _ = receiver.wait_for_count(2)
    wait_until(lambda: first.gone_at is not None)
    assert first.bytes_sent < 20_000_000 and not first.finished


@pytest.mark.parametrize("place", [refused_address, unanswered_address], ids=["refused", "unanswered"])
def test_a_message_is_given_up_after_all_attempts_and_the_log_has_what_it_said(
    use_webhook: Callable[[str], Webhook], capfd: pytest.CaptureFixture[str], place: Any
) -> None:
    before = count("given_up")
    with place() as base_url:
        use_webhook(base_url).send_warning(make_warning(5))
        wait_until(lambda: count("given_up") > before)
    log = capfd.readouterr().err
    (line,) = find_logged(log, "webhook_message_failed")
    assert line["attempts"] == 4 and json.loads(line["body"])["data"]["subject"]["name"] == "alice"
    assert line["reason"] in {"cannot connect", "no answer within 0.3 s"}
    assert TOKEN not in log and SECRET not in log


def test_a_message_that_nobody_accepts_does_not_hold_up_the_others(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(webhook), "PAUSES_S", (600.0,))
    receiver.enqueue(json_answer({}, 400))
    sender = use_webhook(receiver.base_url)
    for period in range(3):
        sender.send_warning(make_warning(period))
    assert [seen.json["id"] for seen in receiver.wait_for_count(3)] == ["budget-0-80", "budget-1-80", "budget-2-80"]


def test_what_does_not_fit_into_the_queue_is_dropped_counted_and_logged_once_and_the_stop_does_not_wait(
    use_webhook: Callable[[str], Webhook],
    receiver: ScriptedUpstream,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(vars(webhook), "TIMEOUT_S", PATIENCE_S)
    before = count("dropped"), count("given_up")
    receiver.default = [hang()]
    sender = use_webhook(receiver.base_url)
    sender.send_warning(make_warning(0))
    receiver.wait_for_count(1)
    for period in range(1, MAX_WAITING + 11):
        sender.send_warning(make_warning(period))
    assert count("dropped") == before[0] + 10
    stop_webhook(0.05)  # It would take a minute if it waited for the attempt.
    assert count("given_up") == before[1] + MAX_WAITING + 1
    log = capfd.readouterr().err
    assert len(find_logged(log, "webhook_messages_dropped")) == 1
    failed = find_logged(log, "webhook_message_failed")
    assert len({line["message_id"] for line in failed}) == MAX_WAITING + 1
    assert {line["reason"] for line in failed} == {"the gateway stopped"}
    assert len(receiver.requests) == 1


def test_messages_that_came_just_before_the_stop_are_sent_and_retries_are_given_up(
    use_webhook: Callable[[str], Webhook], receiver: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(webhook), "PAUSES_S", (600.0,))
    before = count("given_up")
    receiver.enqueue(json_answer({}, 503))
    sender = use_webhook(receiver.base_url)
    sender.send_warning(make_warning(1))
    wait_until(lambda: sender._waiting and sender._waiting[0][2].attempts == 1)
    for period in (2, 3):
        sender.send_warning(make_warning(period))
    sender.stop(PATIENCE_S)
    assert [seen.json["id"] for seen in receiver.requests] == ["budget-1-80", "budget-2-80", "budget-3-80"]
    assert count("given_up") == before + 1


@pytest.mark.parametrize(
    ("changes", "text", "percent"),
    [
        ({"unit": "tokens", "charged": "4999", "amount": "5000"}, "5,000 tokens (month)", 99),
        ({"charged": "0.100000000000", "amount": "0.000000000000"}, "0.00 USD (month)", 100),
        ({"charged": "61.000000000000"}, "50.00 USD (month)", 122),
    ],
)
def test_the_text_names_the_amount_and_the_share(changes: dict[str, str], text: str, percent: int) -> None:
    message = webhook.make_warning_message(make_warning(**changes))
    assert message.text.startswith(f"The holder alice has used {percent}% of its budget of {text}.")
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
