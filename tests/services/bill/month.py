"""A month of requests that the gateway recorded, and the sandbox's billing entries for the same requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import requests
from sqlalchemy import Engine

from tests.db.rows import Row, insert_rows, make_row
from tests.support.waiting import PATIENCE_S

MONTH = "2026-03"
DAYS = [date(2026, 3, day) for day in range(1, 7)]
PREFIX = "accounts/fireworks/models/"
# Model → USD per token for input, cached input and output, as the sandbox lists them.
PRICES = {
    PREFIX + "deepseek-v3p1": (Decimal("0.00000056"), Decimal("0.00000028"), Decimal("0.00000168")),
    PREFIX + "glm-5p3": (Decimal("0.0000014"), Decimal("0.00000026"), Decimal("0.0000044")),
    PREFIX + "kimi-k3": (Decimal("0.000003"), Decimal("0.0000003"), Decimal("0.000015")),
}
DOUBLED, DEARER, CUT = PRICES
# The only day with a cut stream, and the tokens that the gateway did not see of it.
CUT_DAY, UNSEEN_TOKENS = DAYS[3], 700


def compute_usd(model: str, prompt: int, cached: int, completion: int) -> Decimal:
    """Returns the cost of a request in USD."""
    uncached_price, cached_price, output_price = PRICES[model]
    return (prompt - cached) * uncached_price + cached * cached_price + completion * output_price


def make_month() -> tuple[list[Row], list[dict[str, Any]]]:
    """Returns the rows of a month's requests, and the provider's billing entries for the same requests.

    On CUT_DAY, a client left a stream of the model CUT, and the provider generated UNSEEN_TOKENS that were never read.
    """
    rows, entries = [], []
    for number, day in enumerate(DAYS):
        for which, model in enumerate(PRICES):
            prompt, cached, completion = 1000 + 100 * number + which, 200 + number, 300 + 7 * which
            is_cut = model == CUT and day == CUT_DAY
            rows.append(
                make_row(
                    started_at=datetime(day.year, day.month, day.day, 5 + which, tzinfo=UTC),
                    key_id=f"key-{which}",
                    model_served=model,
                    prompt_tokens=prompt,
                    cached_tokens=cached,
                    completion_tokens=completion,
                    cost_usd=compute_usd(model, prompt, cached, completion),
                    cost_kind="estimated" if is_cut else "exact",
                    outcome="client_gone" if is_cut else "ok",
                )
            )
            entries.append(
                {
                    "day": str(day),
                    "model": model,
                    "prompt_tokens": prompt,
                    "cached_tokens": cached,
                    "completion_tokens": completion + (UNSEEN_TOKENS if is_cut else 0),
                }
            )
    return rows, entries


@contextmanager
def planted(url: str, entries: Sequence[dict[str, Any]], gaps: Sequence[dict[str, str]] = ()) -> Iterator[None]:
    """Gives a sandbox only these billing entries, billed with these gaps, for the length of a `with` block."""
    _post(url, {"clear": True, "add": list(entries), "gaps": list(gaps)})
    try:
        yield
    finally:
        _post(url, {"clear": True})


def insert_month(engine: Engine) -> list[dict[str, Any]]:
    """Records the month in a database, and returns the provider's billing entries."""
    rows, entries = make_month()
    insert_rows(engine, rows)
    return entries


def _post(url: str, body: dict[str, Any]) -> None:
    response = requests.post(f"{url}/sandbox/books", json=body, timeout=PATIENCE_S)
    assert response.status_code == 200, response.text


def without(day: date) -> list[date]:
    """Returns the other days of the month that have requests."""
    return [each for each in DAYS if each != day]


def day_after(day: date) -> datetime:
    """Returns the midnight at which a day ends."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
