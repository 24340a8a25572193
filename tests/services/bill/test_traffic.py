"""The sandbox's control plane bills exactly the requests that a gateway served, to the token and the dollar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import requests
from sqlalchemy import text

from app.config import load_settings
from app.db import get_engine
from app.runtime import use_settings
from app.services.bill import Compared, fetch_bill, select_reconciliation
from app.services.providers import PROVIDERS, get_client
from tests.services.bill.month import PREFIX
from tests.support.answers import json_answer
from tests.support.chat import open_chat, post_chat, read_until, rows_where
from tests.support.gateway import Gateway
from tests.support.sandbox import Sandbox
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.waiting import PATIENCE_S, wait_until

# A model that no other test uses.
MODEL = PREFIX + "ember-1"
FIREWORKS = PROVIDERS["fireworks"]


@pytest.fixture
def settings(session_database_url: str, sandbox: Sandbox) -> Iterator[None]:
    """Points this process's settings at the sandbox and at the database of the gateway that all tests share."""
    use_settings(load_settings({"DATABASE_URL": session_database_url, **sandbox.settings}))
    yield
    with get_engine().begin() as connection:
        connection.execute(text("TRUNCATE bill_day, bill_line, bill_run"))
    use_settings(None)


def compare(start: datetime) -> Compared:
    """Returns the comparison for the model since `start`, as if the bill were fetched some days later."""
    fetch_bill(FIREWORKS, start.date(), datetime.now(UTC).date())
    later = datetime.now(UTC) + timedelta(days=3)
    with get_engine().begin() as connection:
        connection.execute(text("UPDATE bill_day SET fetched_at = :later"), {"later": later})
    (row,) = [row for row in select_reconciliation(FIREWORKS.name, f"{start:%Y-%m}").models if row.model == MODEL]
    return row


def wait_for_rows(database_url: str, count: int) -> None:
    """Waits until the records of so many requests for the model are in the database."""
    wait_until(lambda: len(rows_where(database_url, "model_served", MODEL)) >= count, what="the records")


def bill_aborted_streams(sandbox: Sandbox, *gaps: dict[str, str]) -> None:
    """Sets the gaps of the sandbox's bill."""
    response = requests.post(f"{sandbox.url}/sandbox/books", json={"gaps": list(gaps)}, timeout=PATIENCE_S)
    assert response.status_code == 200


def test_traffic_is_billed_as_recorded_and_an_aborted_stream_is_found(
    settings: None,
    gateway: Gateway,
    sandbox: Sandbox,
    session_database_url: str,
    find_books: Callable[[], dict[str, int | str]],
) -> None:
    start = datetime.now(UTC)
    for more in ({}, {"stream": True}, {"service_tier": "priority"}):
        assert post_chat(gateway, MODEL, **more).status == 200
    wait_for_rows(session_database_url, 3)
    equal = compare(start)
    assert (equal.token_difference, equal.token_capture, equal.unfinished_requests) == (0, 1.0, 0)
    assert equal.recorded_tokens > 0 and equal.estimated_cost == 0
    # The bill rounds a day's cost to a billionth of a dollar. Usage in two tiers has no single price.
    assert abs(equal.cost_difference or Decimal(1)) < Decimal("1e-9") or equal.cost_difference == 0
    assert equal.expected_from is None or equal.expected_from == "records"

    long = [{"role": "user", "content": "Write 900 words"}]
    with open_chat(gateway, MODEL, messages=long) as connection:
        read_until(connection, b'"content"')
    wait_for_rows(session_database_url, 4)
    (row,) = [each for each in rows_where(session_database_url, "model_served", MODEL) if each["outcome"] != "ok"]
    wait_until(lambda: int(find_books()["unsent_tokens"]) > 0, what="the books of the stream")
    books = find_books()
    aborted = compare(start)
    assert (row["outcome"], aborted.unfinished_requests, aborted.requests) == ("client_gone", 1, 4)
    assert aborted.billed_tokens == int(books["prompt_tokens"]) + int(books["completion_tokens"])
    of_row = row["prompt_tokens"] + row["completion_tokens"]
    assert aborted.recorded_tokens == equal.recorded_tokens + of_row and aborted.estimated_cost == row["cost_usd"]

    bill_aborted_streams(sandbox, {"gap": "aborted", "bills": "whole"})
    try:
        whole = compare(start)
    finally:
        bill_aborted_streams(sandbox)
    assert whole.token_difference is not None and aborted.token_difference is not None
    assert whole.token_difference - aborted.token_difference == int(books["unsent_tokens"])
    report = select_reconciliation(FIREWORKS.name, f"{start:%Y-%m}")
    (finding,) = [each for each in report.findings if each.model == MODEL and each.kind == "tokens_differ"]
    assert finding.causes[0] == "unfinished_requests" and finding.token_difference == whole.token_difference


@pytest.fixture
def find_books(sandbox: Sandbox) -> Callable[[], dict[str, int | str]]:
    """A function that returns the sandbox's billing entry for the model."""

    def find() -> dict[str, int | str]:
        entries = requests.get(f"{sandbox.url}/sandbox/books", timeout=PATIENCE_S).json()["entries"]
        (entry,) = [each for each in entries if each["model"] == MODEL]
        return dict(entry)

    return find


@pytest.mark.parametrize(("name", "annotations"), [("eu-1", "project=eu-1"), (None, None)])
def test_requests_have_the_gateways_name_if_it_has_one(
    upstream: ScriptedUpstream, name: str | None, annotations: str | None
) -> None:
    use_settings(load_settings({**upstream.settings, "GATEWAY_NAME": name or ""}))
    upstream.enqueue(json_answer({}))
    get_client(FIREWORKS).post("/chat/completions", b"{}", stream=False).body.close()
    use_settings(None)
    assert upstream.requests[-1].headers.get("fireworks-annotations") == annotations
