"""Costs that are computed later use the right price, and the sums are as if the costs had always been known."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from app.cli.reprice import reprice_command
from app.config import load_settings
from app.db import get_engine
from app.db.catalog import ModelChange, update_kept_list
from app.db.fold import fold_deltas
from app.runtime import use_settings
from app.services.journal import select_integrity_report
from tests.db.rows import Row, contents, insert_rows, make_row

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)
GLM, OTHER, ROUTER = (f"accounts/fireworks/models/{name}" for name in ("glm-x", "other-x", "router-x"))
SUMS = ("outcome_usage", "model_usage", "latency_usage", "key_presence", "usage_rollup", "model_rollup", "key_usage")

PRICE_FILE = """
unit = "usd_per_million_tokens"
date = 2026-03-14
[chutes."own/model"]
prompt = 10
completion = 20
"""


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[Engine]:
    """The engine of the test's own database, with a price file."""
    (tmp_path / "prices.toml").write_text(PRICE_FILE)
    use_settings(load_settings({"DATABASE_URL": database_url, "PRICE_FILE": str(tmp_path / "prices.toml")}))
    yield get_engine()
    use_settings(None)


def make_facts(prompt: str, completion: str | None = "0.000002") -> dict[str, Any]:
    """Returns a model's facts with these prices."""
    facts = {"prompt": prompt, "completion": completion, "price_source": "fireworks"}
    return {name: value for name, value in facts.items() if value is not None}


def keep_lists(engine: Engine) -> None:
    """Keeps two lists of Fireworks: at NOON, and an hour later with a new price for one model and one more model."""
    first, second = make_facts("0.000001"), make_facts("0.000003")
    models = {GLM: first, ROUTER: make_facts("0.000009")}
    added = make_facts("0.000005")
    changes = [ModelChange(GLM, "price", first, second), ModelChange(OTHER, "added", None, added)]
    with engine.begin() as connection:
        for hours, changed, told in ((0, models, []), (1, {GLM: second, OTHER: added}, changes)):
            update_kept_list(
                connection,
                "fireworks",
                fetched_at=NOON + timedelta(hours=hours),
                version=str(hours),
                changed=changed,
                removed=[],
                changes=told,
            )


def make_rows() -> list[tuple[Row, str | None, str]]:
    """Returns records without a cost, each with the cost that it will get, and a part of the reason."""
    unknown: dict[str, Any] = {"cost_usd": None, "cost_kind": "unknown", "cached_tokens": None}
    long_ago = {"started_at": NOON - timedelta(days=100)}
    return [
        (make_row(model_served=GLM, after_s=60, **unknown), "0.0002", "has this price since 2026-03-14 12:00"),
        (make_row(model_served=GLM, after_s=3700, key_id="key-2", **unknown), "0.0004", "since 2026-03-14 13:00"),
        (make_row(model_served="glm-x", after_s=3600, outcome="upstream_cut", **unknown), "0.0004", "13:00"),
        (make_row(model_served=OTHER, model_requested="other-x", **unknown), "0.0006", "known later"),
        (make_row(model_served=GLM, **long_ago, **unknown), "0.0002", "known later"),
        (make_row(gateway="chutes", model_served="own/model", **unknown), "0.002", "since 2026-03-14"),
        (make_row(model_served=GLM, model_requested="router-x", **unknown), None, "different prices"),
        (make_row(model_served="accounts/fireworks/models/nobody-sells-it", **unknown), None, "no price is known"),
        (make_row(model_served=GLM, **unknown | {"prompt_tokens": None}), None, "tokens"),
        (make_row(model_served=GLM, cost_usd=Decimal("0.5")), "0.5", ""),
    ]


def run(*arguments: str, answer: str | None = None) -> Result:
    """Runs the command for records since a year before NOON."""
    return CliRunner().invoke(reprice_command, ["--from", "2025-03-14", "--to", "2026-03-15", *arguments], input=answer)


def fold(engine: Engine) -> None:
    """Folds all deltas."""
    while fold_deltas(engine, min_age_s=0).folded:
        pass


def test_what_is_priced_later_counts_as_if_it_had_been_priced_at_once(engine: Engine) -> None:
    keep_lists(engine)
    rows = make_rows()
    insert_rows(engine, [row for row, _, _ in rows])
    fold(engine)
    sums, integrity = contents(engine, *SUMS), select_integrity_report()

    dry = run("--dry-run")
    assert dry.exit_code == 0 and "0.0038" in dry.output.replace("0.003800", "0.0038"), dry.output
    assert all(reason in dry.output for _, _, reason in rows)
    assert run(answer="n\n").exit_code == 1
    assert contents(engine, *SUMS, "rollup_delta") == sums | {"rollup_delta": []}

    done = run(answer="y\n")
    assert done.exit_code == 0 and "6 records have a cost now" in done.output
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT * FROM activity").mappings().all()
    by_id = {row["request_id"]: row for row in found}
    for row, cost, reason in rows:
        now = by_id[row["request_id"]]
        assert now["cost_usd"] == (None if cost is None else Decimal(cost))
        if cost is None or row["cost_usd"] is not None:
            assert (now["repriced"], now["cost_kind"]) == (None, row["cost_kind"])
        else:
            assert now["cost_kind"] == "estimated" and reason in now["repriced"]["reason"] and now["price_source"]
            assert [now["repriced"][name] for name in ("cost_usd", "cost_kind")] == [None, "unknown"]
    assert (select_integrity_report().outcomes, integrity.balanced) == (integrity.outcomes, integrity.balanced)
    again = run("--yes")
    assert again.exit_code == 0 and "0 records" not in again.output and "left as they are" in again.output

    fold(engine)
    repriced = contents(engine, *SUMS)
    assert repriced != sums
    with engine.begin() as connection:
        connection.exec_driver_sql(f"TRUNCATE activity, rollup_delta, latency_rollup, key_seen, {', '.join(SUMS)}")
    priced = [
        row if row["cost_usd"] is not None or cost is None else row | {"cost_usd": cost, "cost_kind": "estimated"}
        for row, cost, _ in rows
    ]
    insert_rows(engine, priced)
    fold(engine)
    for table in SUMS:
        assert sorted(map(normalise, repriced[table])) == sorted(map(normalise, contents(engine, table)[table])), table


def normalise(line: str) -> str:
    """Returns a row as text, without the zeros at the end of its decimals."""
    parts = (part.rstrip("0").rstrip(".") if "." in part else part for part in line.strip("()").split(","))
    return ",".join(parts)


def test_a_window_that_is_empty_or_backwards_is_refused(engine: Engine) -> None:
    refused = CliRunner().invoke(reprice_command, ["--from", "2026-03-15", "--to", "2026-03-14"])
    assert refused.exit_code == 2 and "before" in refused.output
    nothing = CliRunner().invoke(reprice_command, ["--from", "2026-03-15", "--to", "2026-03-16"])
    assert nothing.exit_code == 0 and "total" in nothing.output
