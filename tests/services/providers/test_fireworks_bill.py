"""The answers of Fireworks' control plane are read in its format, and refused in any other."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from app.config import load_settings
from app.errors import UpstreamError
from app.services.providers import Bill, BilledUse
from app.services.providers.fireworks_bill import fetch_bill
from tests.support.answers import json_answer
from tests.support.scripted_upstream import ScriptedUpstream

DAY = date(2026, 11, 24)
GLM, KIMI, EMBEDDER = (f"accounts/fireworks/models/{name}" for name in ("glm-5p3", "kimi-k3", "qwen3-embedding-8b"))
ACCOUNTS = {"accounts": [{"name": "accounts/acme"}]}


def make_usage(model: str, prompt: str, completion: str, **more: Any) -> dict[str, Any]:
    """Returns a row of the usage report."""
    return {
        "modelName": model,
        "promptTokens": prompt,
        "completionTokens": completion,
        "startTime": "2026-11-24T00:00:00Z",
        "endTime": "2026-11-25T00:00:00Z",
        "audioInputSeconds": 0,
        "usageType": "TEXT_COMPLETION_INFERENCE_USAGE",
        "apiKeyId": "",
        "group": {"model_name": model},
    } | more


def make_cost(model: str, units: str, nanos: int, currency: str = "USD") -> dict[str, Any]:
    """Returns a row of the rated costs."""
    dimensions = {"startTime": "2026-11-24T00:00:00Z", "model": model}
    return {"dimensions": dimensions, "subtotal": {"currencyCode": currency, "units": units, "nanos": nanos}}


USAGE = {
    "serverlessCosts": [make_usage(GLM, "1204332", "88120"), make_usage(EMBEDDER, "40210", "0")],
    "dedicatedCosts": [],
}
COSTS = {"rows": [make_cost(GLM, "1", 734900000), make_cost(KIMI, "0", 91250000)], "nextPageToken": ""}


def fetch(upstream: ScriptedUpstream, *answers: Any, name: str | None = None, keys: str = "fw_one") -> Bill:
    """Returns the bill of DAY from these answers, in their order."""
    for answer in answers:
        upstream.enqueue(json_answer(answer))
    return fetch_bill(load_settings({**upstream.settings, "FIREWORKS_BILLING_KEY": keys}), DAY, DAY, name)


@pytest.fixture
def upstream() -> Any:
    with ScriptedUpstream() as upstream:
        yield upstream


def test_tokens_and_dollars_are_joined_by_day_and_model(upstream: ScriptedUpstream) -> None:
    bill = fetch(upstream, ACCOUNTS, USAGE, COSTS)
    assert (bill.account, bill.costs_refusal, bill.named) == ("accounts/acme", None, None)
    assert list(bill.uses) == [
        BilledUse(day=DAY, model=GLM, prompt_tokens=1204332, completion_tokens=88120, cost_usd=Decimal("1.7349")),
        BilledUse(day=DAY, model=KIMI, cost_usd=Decimal("0.09125")),
        BilledUse(day=DAY, model=EMBEDDER, prompt_tokens=40210),
    ]
    accounts, usage, costs = upstream.requests
    assert accounts.path == "/v1/accounts" and accounts.headers["authorization"] == "Bearer fw_one"
    assert usage.path == (
        "/v1/accounts/acme/billingUsage?startTime=2026-11-24T00%3A00%3A00Z&endTime=2026-11-25T00%3A00%3A00Z"
        "&timezone=UTC&groupBy=model_name"
    )
    assert (costs.method, costs.path) == ("POST", "/v1/accounts/acme/usageCosts:query")
    assert b'"scope":"ACCOUNT","groupBy":["DAY","MODEL"]' in costs.body


def test_pages_kinds_of_use_and_accounts_add_up(upstream: ScriptedUpstream) -> None:
    twice = {"serverlessCosts": [make_usage(GLM, "1", "2"), make_usage(GLM, "3", "4", usageType="OTHER")]}
    first, second = COSTS | {"nextPageToken": "2"}, {"rows": [make_cost(GLM, "2", 0)]}
    other = {"accounts": [{"name": "accounts/other"}]}
    bill = fetch(upstream, ACCOUNTS, twice, first, second, other, twice, {}, keys="fw_one,fw_two")
    (glm,) = [use for use in bill.uses if use.model == GLM]
    assert (glm.prompt_tokens, glm.completion_tokens, glm.cost_usd) == (8, 12, Decimal("3.7349"))
    assert bill.account == "accounts/acme, accounts/other" and b'"pageToken":"2"' in upstream.requests[3].body


def test_the_tokens_of_a_name_are_told_apart(upstream: ScriptedUpstream) -> None:
    rows = [
        make_usage("", "7", "2", group={"annotations.project": "eu-1"}),
        make_usage("", "9", "9", group={"annotations.project": "us-1"}),
    ]
    bill = fetch(upstream, ACCOUNTS, USAGE, {"serverlessCosts": rows}, COSTS, name="eu-1")
    assert bill.named == {DAY: (7, 2)} and "groupBy=annotations.project" in upstream.requests[2].path


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([{"accounts": []}], "sees no account"),
        ([{"accounts": [{"name": "accounts/a"}, {"name": "accounts/b"}]}], "sees accounts/a, accounts/b"),
        ([ACCOUNTS, {"serverlessCosts": {}}], "has no list serverlessCosts"),
        ([ACCOUNTS, {"serverlessCosts": [make_usage(GLM, "many", "0")]}], "cannot be read"),
        ([ACCOUNTS, {"serverlessCosts": [make_usage(GLM, "-1", "0")]}], "is negative"),
        ([ACCOUNTS, {"serverlessCosts": [make_usage(GLM, "1", "0", startTime="2026-11-24T07:00:00Z")]}], "midnight"),
        ([ACCOUNTS, USAGE, {"rows": [make_cost(GLM, "1", 0, "EUR")]}], "not in USD"),
        ([ACCOUNTS, USAGE, {"rows": [{}]}], "cannot be read"),
    ],
)
def test_another_form_is_an_error_that_says_which(upstream: ScriptedUpstream, answers: list[Any], words: str) -> None:
    with pytest.raises(UpstreamError, match=words):
        fetch(upstream, *answers)
