"""Planted gaps in a month are found exactly, over the sandbox's control plane and a real database."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, text

from app.cli.bill import bill_group
from app.config import load_settings
from app.db import get_engine
from app.errors import BadRequest, UpstreamError
from app.runtime import use_settings
from app.services.bill import Finding, Reconciliation, fetch_bill, run_if_due, select_reconciliation
from app.services.bill.nightly import DAYS as NIGHTS
from app.services.providers import PROVIDERS
from tests.db.rows import insert_rows, make_row
from tests.services.bill.month import (
    CUT,
    CUT_DAY,
    DAYS,
    DEARER,
    DOUBLED,
    MONTH,
    PREFIX,
    UNSEEN_TOKENS,
    compute_usd,
    day_after,
    make_month,
    planted,
    without,
)
from tests.support.sandbox import Sandbox

FIREWORKS = PROVIDERS["fireworks"]
MISSING_DAY = DAYS[1]


def reconcile(*options: str) -> Reconciliation:
    """Returns the report of `flask bill reconcile --json`."""
    result = CliRunner().invoke(bill_group, ["reconcile", "--month", MONTH, "--json", *options])
    assert result.exit_code == 0, result.output
    return msgspec.json.decode(result.stdout, type=Reconciliation)


def find(report: Reconciliation, kind: str) -> list[Finding]:
    """Returns the findings of a kind."""
    return [finding for finding in report.findings if finding.kind == kind]


def test_equal_books_have_no_finding(engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox) -> None:
    equal = [dict(entry) for entry in entries]
    for entry in equal:
        if entry["model"] == CUT and entry["day"] == str(CUT_DAY):
            entry["completion_tokens"] = int(str(entry["completion_tokens"])) - UNSEEN_TOKENS
    with planted(sandbox.url, equal):
        report = reconcile()
    rows, _ = make_month()
    assert (report.findings, report.is_in_band, report.account) == ([], True, "accounts/sandbox")
    assert (report.total.token_capture, report.total.cost_capture, report.total.price_drift) == (1.0, 1.0, 0.0)
    assert report.total.recorded_tokens == sum(row["prompt_tokens"] + row["completion_tokens"] for row in rows)
    assert report.total.recorded_cost == report.total.billed_cost == sum(row["cost_usd"] for row in rows)
    assert {line.expected_from for line in report.lines} == {"list"}
    assert report.unfinished_share == pytest.approx(1 / len(rows), abs=1e-6)
    assert len(report.days) == 31 and {day.state for day in report.days} == {"settled"}


def test_planted_gaps_are_found_and_nothing_else(
    engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox
) -> None:
    gaps = [
        {"gap": "missing_day", "day": str(MISSING_DAY)},
        {"gap": "double", "model": DOUBLED},
        {"gap": "price", "model": DEARER, "factor": "1.1"},
    ]
    with planted(sandbox.url, entries, gaps):
        report = reconcile()
    rows = {(row["started_at"].date(), row["model_served"]): row for row in make_month()[0]}
    tokens = {place: row["prompt_tokens"] + row["completion_tokens"] for place, row in rows.items()}
    others = without(MISSING_DAY)
    assert report.is_in_band is False and len(report.findings) == 4

    (missing,) = find(report, "day_not_billed")
    of_day = [place for place in rows if place[0] == MISSING_DAY]
    assert (missing.days, missing.model) == ([MISSING_DAY], None)
    assert missing.token_difference == -sum(tokens[place] for place in of_day)
    assert missing.cost_difference == -sum(rows[place]["cost_usd"] for place in of_day)
    assert missing.causes[0] == "bill_incomplete" and "Fetch the month again" in missing.meanings[0]

    double, cut = find(report, "tokens_differ")
    assert (double.model, double.days, double.causes[0]) == (DOUBLED, others, "counted_twice")
    assert double.token_difference == sum(tokens[day, DOUBLED] for day in others)
    assert double.cost_difference == sum(rows[day, DOUBLED]["cost_usd"] for day in others)
    assert (cut.model, cut.days, cut.causes[0]) == (CUT, [CUT_DAY], "unfinished_requests")
    assert cut.token_difference == UNSEEN_TOKENS
    assert cut.cost_difference == UNSEEN_TOKENS * Decimal("0.000015")

    (dearer,) = find(report, "price_differs")
    assert (dearer.model, dearer.days, dearer.causes[0]) == (DEARER, others, "price_changed")
    expected = sum(rows[day, DEARER]["cost_usd"] for day in others)
    assert abs((dearer.cost_difference or Decimal(0)) - expected / 10) < Decimal("1e-8")  # The bill rounds to 1e-9.
    (model,) = [row for row in report.models if row.model == DEARER]
    assert (model.price_drift, model.expected_cost) == (0.1, expected)

    table = CliRunner().invoke(bill_group, ["reconcile", "--month", MONTH, "--no-fetch"])
    assert table.exit_code == 0 and "NOT in the band of 99.0% to 101.0%" in table.stdout
    assert f"day_not_billed: all models, {MISSING_DAY}: " in table.stdout and "+10.00%" in table.stdout


def test_a_model_that_one_side_lacks_is_named(
    engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox
) -> None:
    stranger = {"day": str(DAYS[0]), "model": PREFIX + "ember-1", "prompt_tokens": 10, "completion_tokens": 5}
    gaps = [{"gap": "missing_model", "model": DOUBLED}]
    with planted(sandbox.url, [*entries, stranger], gaps):
        report = reconcile()
    (unbilled,) = find(report, "model_not_billed")
    (unrecorded,) = find(report, "model_not_recorded")
    assert (unbilled.model, unbilled.days) == (DOUBLED, DAYS)
    assert (unrecorded.model, unrecorded.days, unrecorded.token_difference) == (PREFIX + "ember-1", [DAYS[0]], 15)


def test_requests_with_another_name_are_not_this_gateways(
    engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox, url: str
) -> None:
    named = [{**entry, "tag": "here"} for entry in entries if entry["model"] != CUT]
    others = [{**entry, "tag": "there", "model": CUT} for entry in entries if entry["model"] == DOUBLED]
    use_settings(load_settings({"DATABASE_URL": url, **sandbox.settings, "GATEWAY_NAME": "here"}))
    with planted(sandbox.url, [*named, *others, *[{**e, "tag": "here"} for e in entries if e["model"] == CUT]]):
        report = reconcile()
    tokens = sum(int(str(each["prompt_tokens"])) + int(str(each["completion_tokens"])) for each in others)
    assert (report.other_tokens, report.total.token_difference) == (tokens, UNSEEN_TOKENS)
    # Another gateway's use of a model is no finding on days whose own tokens match; costs carry no gateway names.
    assert [(each.kind, each.model, each.days) for each in report.findings if each.model == CUT] == [
        ("tokens_differ", CUT, [CUT_DAY])
    ]
    assert report.total.cost_capture is None and report.total.price_drift is not None


def test_a_key_that_may_not_read_costs_leaves_tokens(
    engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox, url: str
) -> None:
    use_settings(load_settings({"DATABASE_URL": url, **sandbox.settings, "FIREWORKS_BILLING_KEY": "member-key"}))
    with planted(sandbox.url, entries):
        report = reconcile()
    assert report.total.token_capture is not None and report.total.billed_cost is None
    assert report.problem is not None and "FIREWORKS_BILLING_KEY" in report.problem


def test_two_keys_of_one_account_count_once(
    engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox, url: str
) -> None:
    use_settings(load_settings({"DATABASE_URL": url, **sandbox.settings, "FIREWORKS_BILLING_KEY": "one,two"}))
    with planted(sandbox.url, entries):
        assert reconcile().total.token_difference == UNSEEN_TOKENS


def test_a_price_that_changed_since_is_told_from_the_records(
    engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox
) -> None:
    with planted(sandbox.url, entries):
        reconcile()
        with engine.begin() as connection:
            connection.execute(text("UPDATE bill_line SET prompt_price = prompt_price * 3"))
        report = reconcile()  # The price of the first fetch stays with the line.
    # If the provider billed another mix of prompt and output, the expected price is unknown.
    lines = {line.expected_from: line for line in report.lines}
    assert lines.keys() == {"records", None} and (lines[None].day, lines[None].model) == (CUT_DAY, CUT)
    assert find(report, "price_differs") == []


def test_days_are_compared_once_they_are_settled(
    engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox
) -> None:
    now = day_after(DAYS[2]) + timedelta(hours=3)  # Three hours into the fourth day.
    with planted(sandbox.url, entries):
        fetch_bill(FIREWORKS, DAYS[0], DAYS[3])
    with engine.begin() as connection:
        connection.execute(text("UPDATE bill_day SET fetched_at = :now"), {"now": now})
    report = select_reconciliation("fireworks", MONTH, now)
    assert [day.state for day in report.days] == ["settled", "settled", "costs_open", "open"]
    assert report.days[3].billed_tokens is None and report.days[2].billed_cost is None
    rows, _ = make_month()
    three = [row for row in rows if row["started_at"].date() in DAYS[:3]]
    assert report.total.recorded_cost == sum(row["cost_usd"] for row in three)
    assert report.total.compared_cost == sum(row["cost_usd"] for row in three[:6])


def test_the_night_asks_once_and_warns(
    engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox, capfd: pytest.CaptureFixture[str]
) -> None:
    midnight = day_after(DAYS[-1])
    with planted(sandbox.url, entries, [{"gap": "double", "model": DOUBLED}]):
        assert run_if_due(midnight + timedelta(hours=1)) == []  # The provider's figures are still incomplete.
        capfd.readouterr()
        assert run_if_due(midnight + timedelta(hours=3)) == ["fireworks"]
        assert run_if_due(midnight + timedelta(hours=3)) == []
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"bill_' in line]
    warned = [event for event in events if event["event"] == "bill_differed"]
    assert [(event["level"], event["day"], event["of"]) for event in warned] == [
        ("warning", "2026-03-06", "tokens"),
        ("warning", "2026-03-06", "costs"),
    ]
    report = select_reconciliation("fireworks", MONTH)
    assert [day.state for day in report.days][:7] == ["settled"] * 6 + ["not_fetched"]
    assert report.days[0].token_difference is not None and NIGHTS == 7


def test_a_night_that_failed_waits_and_says_why(engine: Engine, url: str) -> None:
    use_settings(
        load_settings(
            {
                "DATABASE_URL": url,
                "FIREWORKS_API_KEY": "sandbox",
                "FIREWORKS_BILLING_KEY": "sandbox",
                "FIREWORKS_CONTROL_URL": "http://127.0.0.1:9",
            }
        )
    )
    now = datetime.now(UTC).replace(hour=4)
    assert run_if_due(now) == ["fireworks"]
    assert run_if_due(now) == []  # The next attempt is due in an hour.
    report = select_reconciliation("fireworks", MONTH)
    assert report.problem is not None and report.problem.startswith("The last fetch failed: ")
    with pytest.raises(UpstreamError):
        fetch_bill(FIREWORKS, DAYS[0], DAYS[0])


def test_one_worker_at_a_time_asks(engine: Engine, entries: list[dict[str, object]], sandbox: Sandbox) -> None:
    now = day_after(DAYS[-1]) + timedelta(hours=3)
    with planted(sandbox.url, entries), engine.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:n)"), {"n": 0x62696C6C})
        assert run_if_due(now) == []
        other.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": 0x62696C6C})
        assert run_if_due(now) == ["fireworks"]


def test_answers_that_say_what_they_cost_are_compared_one_by_one(engine: Engine, url: str) -> None:
    use_settings(load_settings({"DATABASE_URL": url, "DEEPINFRA_API_KEY": "sandbox"}))
    noon, model = datetime(2026, 3, 10, 12, tzinfo=UTC), "acme/Dear"
    alike = {"gateway": "deepinfra", "started_at": noon, "model_served": model, "cost_usd": Decimal("0.002")}
    insert_rows(
        get_engine(),
        [
            make_row(**alike, stated_cost_usd=0.002),
            make_row(**alike, stated_cost_usd=0.0020001),  # Differs by less than a thousandth, as by rounding.
            make_row(**alike, stated_cost_usd=0.003),
            make_row(**alike | {"cost_kind": "estimated"}, stated_cost_usd=0.003),
            make_row(**alike),
        ],
    )
    report = reconcile("--gateway", "deepinfra")
    assert (report.source, report.compared_requests, report.differing_requests) == ("answers", 4, 1)
    (row,) = report.models
    assert (row.billed_cost, row.recorded_cost) == (Decimal("0.0100001"), Decimal("0.01"))
    assert row.token_capture == 1.25  # One of the five answers has no stated cost.
    (finding,) = find(report, "price_differs")
    assert (finding.model, finding.cost_difference) == (model, Decimal("0.0020001"))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE activity_p20260310"))
    assert reconcile("--gateway", "deepinfra").models == [row]  # Results stay after their records are dropped.


def test_what_cannot_be_asked_is_said(engine: Engine, url: str) -> None:
    with pytest.raises(BadRequest, match="has not begun"):
        select_reconciliation("fireworks", "2099-01")
    for arguments, words in [
        (["--month", "2026-13"], "it must be a month such as 2026-11"),
        (["--gateway", "featherless"], "Invalid value"),
    ]:
        result = CliRunner().invoke(bill_group, ["reconcile", *arguments])
        assert result.exit_code != 0 and words in result.output
    use_settings(load_settings({"DATABASE_URL": url}))
    result = CliRunner().invoke(bill_group, ["reconcile"])
    assert result.exit_code == 1 and "FIREWORKS_BILLING_KEY is not set" in result.output
    problem = select_reconciliation().problem
    assert problem is not None and problem.startswith("FIREWORKS_BILLING_KEY is not set")


def test_the_cost_of_a_request_is_that_of_the_price_list() -> None:
    assert compute_usd(DOUBLED, 1000, 200, 300) == Decimal("0.001008") and date(2026, 3, 6) == DAYS[-1]
