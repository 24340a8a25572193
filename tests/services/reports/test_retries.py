"""Retries are linked on their records in any order of arrival, and reports show their costs and their clients."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, text

from app.cli.retries import retries_command
from app.config import load_settings
from app.db import get_engine
from app.db.retries import try_lock_links
from app.runtime import get_runtime, use_settings
from app.services.journal.retry_links import RetryLinker
from app.services.reports import select_request_story, select_retry_report
from tests.db.rows import Row, count, insert_keys, insert_rows, make_row

BEGIN = datetime.now(UTC) - timedelta(minutes=10)
AGENT = "OpenAI/Python 2.0.0"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Points this process's settings at the test's database."""
    use_settings(load_settings({"DATABASE_URL": database_url}))
    yield get_engine()
    use_settings(None)


def make_request_id(at: datetime) -> str:
    """Returns the id of a request that began at this time: a UUID of version 7."""
    milliseconds = int(at.timestamp() * 1000)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | random.getrandbits(62)))


def make_sent(number: int, at_s: float, **changes: Any) -> Row:
    """Returns the record of an SDK's request that began `at_s` seconds after BEGIN."""
    started_at = BEGIN + timedelta(seconds=at_s)
    sent: dict[str, Any] = {
        "request_id": make_request_id(started_at),
        "started_at": started_at,
        "client_retry": number,
        "body_digest": "00d1ge57",
    }
    if number:
        sent["client_agent"] = AGENT
    return make_row(**sent | changes)


def link() -> int:
    """Links the waiting retries, as a worker does in the background."""
    return RetryLinker(get_runtime()).link()


def test_the_attempts_that_retries_repeat_are_linked_and_summed(engine: Engine) -> None:
    insert_keys(engine, "key-1", "key-2")
    left = make_sent(0, 0, outcome="client_gone", cost_usd=None, cost_kind="unknown", duration_ms=60_000.0)
    cut = make_sent(1, 61, outcome="upstream_cut", cost_usd=Decimal("0.25"), cost_kind="estimated")
    served = make_sent(2, 63, cost_usd=Decimal("0.5"))
    other = make_sent(0, 0, key_id="key-2", cost_usd=Decimal("0.125"))
    other_retry = make_sent(1, 2, key_id="key-2", client_agent="OpenAI/JS 6.1.0")
    alone = make_sent(1, 5, body_digest="another")
    plain = make_row(started_at=BEGIN, client_retry=None)
    # The first attempts arrive last, as if from the journal of a killed worker.
    insert_rows(engine, [served, other_retry, alone, plain])
    assert (link(), count(engine, "unlinked_retry")) == (0, 3)
    insert_rows(engine, [cut, other])
    assert (link(), count(engine, "unlinked_retry")) == (2, 2)
    insert_rows(engine, [left])
    assert (link(), link(), count(engine, "unlinked_retry")) == (1, 0, 1)

    story = select_request_story(cut["request_id"], None)
    assert story.retries is not None
    chain = story.retries
    assert [str(each.request_id) for each in chain.attempts] == [row["request_id"] for row in (left, cut, served)]
    assert [each.is_this for each in chain.attempts] == [False, True, False]
    assert (chain.repeated_cost, chain.unpriced_attempts, chain.client_agent) == (Decimal("0.25"), 1, AGENT)
    assert str(story.data["retry_of"]) == left["request_id"] and str(story.data["retried_by"]) == served["request_id"]
    assert select_request_story(alone["request_id"], None).retries is None

    report = select_retry_report(None)
    assert (report.repeated_attempts, report.repeated_cost, report.estimated_cost) == (
        3,
        Decimal("0.125"),
        Decimal("0.25"),
    )
    first, second = report.clients
    assert (first.key, first.client_agent, first.repeated_attempts, first.unpriced_attempts) == ("key-1", AGENT, 2, 1)
    assert first.outcomes == {"client_gone": 1, "upstream_cut": 1}
    assert (second.key, second.client_agent, second.repeated_cost) == ("key-2", "OpenAI/JS 6.1.0", Decimal("0.125"))
    assert select_retry_report("key-2").clients == [second]
    assert select_retry_report(None, BEGIN - timedelta(days=1), BEGIN).clients == []

    shown = CliRunner().invoke(retries_command, [])
    assert shown.exit_code == 0 and AGENT in shown.output and "client_gone 1, upstream_cut 1" in shown.output
    assert "No attempt" in CliRunner().invoke(retries_command, ["--to", "2026-01-01", "--from", "2025-12-31"]).output
    refused = CliRunner().invoke(retries_command, ["--key", "nobody"])
    assert refused.exit_code == 1 and "nobody" in refused.output


def test_a_retry_whose_attempt_never_comes_is_given_up(engine: Engine) -> None:
    insert_rows(engine, [make_sent(1, 5)])
    with engine.begin() as connection:
        connection.execute(text("UPDATE unlinked_retry SET created_at = now() - interval '16 minutes'"))
    assert (link(), count(engine, "unlinked_retry")) == (0, 0)


def test_one_process_links_at_a_time(engine: Engine) -> None:
    insert_rows(engine, [make_sent(0, 0), make_sent(1, 2)])
    with engine.begin() as connection:
        assert try_lock_links(connection)
        assert link() == 0
    assert link() == 1
