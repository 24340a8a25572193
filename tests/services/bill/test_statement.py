"""A statement has the numbers of the activity API, in every format, and the bill's result at its end."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from app.cli.bill import bill_group
from app.services.bill import Statement
from app.services.reports import AskedWindow, Owned, select_stats, select_usage_report
from tests.db.rows import insert_keys
from tests.services.bill.month import CUT, DAYS, MONTH, PRICES, make_month, planted
from tests.support.sandbox import Sandbox

START, END = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
MODELS = list(PRICES)
# Unescaped, a spreadsheet would compute it, and a browser would show bold text.
HOSTILE = "=1+<b>1</b>"


@pytest.fixture
def owners(engine: Engine) -> Iterator[Engine]:
    """The engine; two of the three keys belong to a holder of the group `research`, and one has a hostile name."""
    insert_keys(engine, "key-0", "key-1", "key-2")
    with engine.begin() as connection:
        for row in ("('g', 'group', 'research', NULL)", "('h', 'holder', 'ada', 'g')"):
            connection.execute(text(f"INSERT INTO subject (id, kind, name, group_id) VALUES {row}"))
        connection.execute(text("UPDATE api_key SET holder_id = 'h' WHERE id IN ('key-0', 'key-2')"))
        connection.execute(text("UPDATE api_key SET name = :name WHERE id = 'key-2'"), {"name": HOSTILE})
    yield engine
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM api_key"))
        connection.execute(text("DELETE FROM subject WHERE kind = 'holder'"))
        connection.execute(text("DELETE FROM subject"))


def run(*options: str) -> Result:
    """Runs `flask bill statement` for the month."""
    return CliRunner().invoke(bill_group, ["statement", "--month", MONTH, *options])


def read(*options: str) -> Statement:
    """Returns the statement as JSON has it."""
    result = run("--format", "json", *options)
    assert result.exit_code == 0, result.output
    return msgspec.json.decode(result.stdout_bytes, type=Statement)


def test_a_statement_has_the_sums_of_the_activity_api(owners: Engine) -> None:
    made = read("--group", "research")
    assert (made.of, made.name, made.month, made.is_final) == ("group", "research", MONTH, True)
    stats = select_stats("all", AskedWindow(start=START, end=END), owned=Owned("group", "research", ["key-0", "key-2"]))
    for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "total_cost", "estimated_cost"):
        assert getattr(made.total, name) == getattr(stats, name), name
    assert made.total.requests == stats.total_requests == 12
    # The cost of the stream that its client left is estimated; all others are exact.
    (cut,) = [row for row in make_month()[0] if row["cost_kind"] == "estimated"]
    assert made.total.estimated_cost == cut["cost_usd"] and cut["model_served"] == CUT
    for row in made.keys:
        usage = select_usage_report(row.key, START.date(), END.date())
        assert (row.total_cost, row.estimated_cost) == (usage.total_cost, usage.estimated_cost)
        assert (row.total_tokens, row.requests) == (usage.total_tokens, usage.total_requests)
    assert [(row.key, row.key_name, row.holder) for row in made.keys] == [
        ("key-2", HOSTILE, "ada"),
        ("key-0", "key-0", "ada"),
    ]


def test_every_part_of_a_statement_adds_up_to_its_total(owners: Engine) -> None:
    for made in (read("--holder", "ada"), read()):
        for rows in (made.keys, made.models, made.days, made.lines):
            for name in ("requests", "prompt_tokens", "completion_tokens", "total_cost", "estimated_cost", "sum_cost"):
                assert sum(getattr(row, name) for row in rows) == getattr(made.total, name), name
    assert (made.of, len(made.lines), [row.day for row in made.days]) == ("all", 18, DAYS)
    assert made.total.sum_cost == sum(row["cost_usd"] for row in make_month()[0])


def test_the_csv_is_for_spreadsheets_and_ends_with_the_bill(
    owners: Engine, entries: list[dict[str, object]], sandbox: Sandbox, tmp_path: Path
) -> None:
    with planted(sandbox.url, entries):
        assert CliRunner().invoke(bill_group, ["reconcile", "--month", MONTH]).exit_code == 0
    file = tmp_path / "statement.csv"
    result = run("--group", "research", "--output", str(file))
    assert (result.exit_code, result.stderr) == (0, f"12 lines written to {file}.\n")
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    lines, (total, bill) = rows[:-2], rows[-2:]
    assert {row["kind"] for row in lines} == {"line"} and (total["kind"], bill["kind"]) == ("total", "reconciliation")
    for name in ("prompt_tokens", "completion_tokens", "total_cost", "estimated_cost", "sum_cost"):
        assert sum(Decimal(row[name]) for row in lines) == Decimal(total[name]), name
    assert {row["key_name"] for row in lines} == {"key-0", "'" + HOSTILE}
    assert bill["gateway"] == "fireworks" and "that accounts/sandbox was billed (31 settled days)" in bill["note"]
    assert bill["note"].endswith("outside of the band, 1 difference.")


def test_the_page_needs_nothing_else_and_trusts_no_name(owners: Engine) -> None:
    result = run("--group", "research", "--format", "html")
    page = result.stdout
    assert result.exit_code == 0 and page.lstrip().startswith("<!doctype html>")
    assert "<h1>Group research</h1>" in page and "=1+&lt;b&gt;1&lt;/b&gt;" in page and "<b>1</b>" not in page
    assert not any(word in page for word in ("<script", "src=", "href=", "url("))
    total = read("--group", "research").total
    assert f">{total.total_cost}<" in page and f">{total.estimated_cost}<" in page
    assert "has not been fetched" in page  # The bill's section is there even without a bill.
    assert all(f">{model}" in page or f"{model} <span" in page for model in (MODELS[0], MODELS[2]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--group", "research", "--holder", "ada"], "not both"),
        (["--group", "nobody"], "no group"),
        (["--month", "2099-01"], "has not begun"),
        (["--month", "soon"], "it must be a month such as 2026-11"),
        (["--output", "/nowhere/else.csv"], "cannot be written"),
    ],
)
def test_a_wrong_wish_is_an_error_of_one_sentence(owners: Engine, options: list[str], words: str) -> None:
    result = run(*options)
    assert result.exit_code != 0 and words in result.output
