"""Prices of tokens and costs of requests, with worked examples that would reveal a wrong power of ten."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from app.runtime import get_component
from app.services.pricing import STANDARD_TIER, Price, Prices, PriceTable, compute_cost, packaged, to_plain_text
from app.services.pricing import get_price as get_price_of
from app.services.providers import PROVIDERS
from app.services.providers.fireworks_prices import normalize_fireworks_prices
from tests.support.catalogs import catalogs_of, price_row

GLM = "accounts/fireworks/models/glm-5p3"
GLM_FAST = "accounts/fireworks/routers/glm-5p3-fast"
TODAY = datetime.date(2026, 11, 22)

# 1.40, 0.26 and 4.40 USD per million tokens, as Fireworks lists them.
GLM_PRICE = Price(
    prompt=Decimal("0.0000014"),
    completion=Decimal("0.0000044"),
    input_cache_read=Decimal("0.00000026"),
    source="fireworks",
    date=TODAY,
)


@pytest.fixture(autouse=True)
def no_prices() -> Iterator[None]:
    """Starts without a configured provider, a price file or listed prices."""
    with catalogs_of({}):
        yield


def get_price(provider_name: str, model_id: str, tier: str | None = None) -> Price | None:
    """Returns the price according to the provider's own billing rules."""
    return get_price_of(PROVIDERS[provider_name].billing, model_id, tier)


def set_listed_prices(provider_name: str, prices: PriceTable) -> None:
    """Sets the prices of the provider's own list."""
    get_component(Prices).set_listed_prices(provider_name, prices)


def list_fireworks_prices(*rows: dict[str, Any]) -> None:
    """Sets the rows of Fireworks' price list."""
    set_listed_prices("fireworks", normalize_fireworks_prices(rows, TODAY))


@pytest.mark.parametrize(
    ("prompt", "cached", "completion", "cost"),
    [
        # 18 · 1.40/1M + 1024 · 0.26/1M + 29 · 4.40/1M = 0.0000252 + 0.00026624 + 0.0001276
        (1042, 1024, 29, "0.00041904"),
        (1_000_000, 0, 1_000_000, "5.80"),
        (1_000_000, 1_000_000, 0, "0.26"),
        (1, 0, 0, "0.0000014"),
        (0, 0, 1, "0.0000044"),
        (0, 0, 0, "0"),
        (1042, None, 29, "0.0015864"),
        # More cached tokens than prompt tokens count as the whole prompt.
        (10, 12, 0, "0.0000026"),
    ],
)
def test_the_cost_of_a_request(prompt: int, cached: int | None, completion: int, cost: str) -> None:
    assert compute_cost(GLM_PRICE, prompt, cached, completion) == Decimal(cost)


def test_without_a_cached_price_cached_tokens_cost_as_much_as_the_others() -> None:
    price = Price(Decimal("0.000001"), Decimal("0.000002"), None, "featherless", None)

    assert compute_cost(price, 1000, 900, 0) == Decimal("0.001")


def test_the_cost_of_the_cheapest_token_keeps_all_its_digits() -> None:
    price = Price(Decimal("0.0042").scaleb(-6), Decimal(0), None, "fireworks", None)

    assert to_plain_text(compute_cost(price, 1, 0, 0)) == "0.0000000042"


def test_fireworks_price_list_is_in_usd_per_million_and_its_prices_come_out_per_token() -> None:
    list_fireworks_prices(price_row(GLM, "1.4", "0.26", "4.4"))

    assert get_price("fireworks", GLM) == GLM_PRICE


@pytest.mark.parametrize(
    ("tier", "prompt"),
    [(None, "1.4"), ("auto", "1.4"), ("default", "1.4"), ("flex", "1.4"), ("priority", "1.75")],
)
def test_fireworks_bills_only_the_priority_tier_separately(tier: str | None, prompt: str) -> None:
    priority = price_row(GLM, "1.75", "0.325", "5.5", serverless_mode="priority", service_tier="priority")
    list_fireworks_prices(price_row(GLM, "1.4", "0.26", "4.4"), priority)

    price = get_price("fireworks", GLM, tier)

    assert price is not None
    assert price.prompt == Decimal(prompt).scaleb(-6)


def test_a_priority_price_that_is_not_listed_is_unknown_and_not_the_standard_one() -> None:
    list_fireworks_prices(price_row(GLM, "1.4", "0.26", "4.4"))

    assert get_price("fireworks", GLM, "priority") is None


def test_another_providers_tier_has_no_known_price() -> None:
    set_listed_prices("deepinfra", {("a/m", STANDARD_TIER): GLM_PRICE})

    assert get_price("deepinfra", "a/m", "flex") is None
    assert get_price("deepinfra", "a/m", "default") == GLM_PRICE


def test_a_router_costs_what_its_own_row_says_and_an_alias_what_its_model_costs() -> None:
    fast = price_row(GLM, "2.1", "0.39", "6.6", serverless_mode="fast", usage_identifier=GLM_FAST)
    latest = "accounts/fireworks/routers/glm-latest"
    priority = price_row(GLM, "1.75", "0.325", "5.5", serverless_mode="priority", service_tier="priority")
    list_fireworks_prices(fast, price_row(GLM, "1.4", "0.26", "4.4", aliases=[latest]), priority)

    asked = [(GLM, None), (GLM_FAST, None), (latest, None), (latest, "priority")]
    prices = [get_price("fireworks", model_id, tier) for model_id, tier in asked]
    assert [price.prompt.scaleb(6) for price in prices if price] == [
        Decimal("1.4"),
        Decimal("2.1"),
        Decimal("1.4"),
        Decimal("1.75"),
    ]
    assert get_price("fireworks", GLM_FAST, "priority") is None


def test_a_mode_that_no_request_can_select_sets_no_price() -> None:
    list_fireworks_prices(price_row(GLM, "9", "9", "9", serverless_mode="fast"))

    assert get_price("fireworks", GLM) != GLM_PRICE
    assert str(getattr(get_price("fireworks", GLM), "source", None)).startswith("genai-prices")


@pytest.mark.parametrize(
    "row",
    [
        price_row(GLM, "1.4", "0.26", "x"),
        price_row(GLM, "-1.4", "0.26", "4.4"),
        price_row(GLM, "1400000", "0.26", "4400000"),
        {**price_row(GLM, "1.4", "0.26", "4.4"), "pricing": None},
        {**price_row(GLM, "1.4", "0.26", "4.4"), "pricing": [7, {"sku": ["x"], "amount": "1", "unit": "1M tokens"}]},
        {"id": GLM, "pricing": [part | {"unit": "1K tokens"} for part in price_row(GLM, "1", "1", "1")["pricing"]]},
        {"id": GLM, "pricing": price_row(GLM, "1", "1", "1")["pricing"][1:]},
        {"id": 7},
        None,
    ],
)
def test_a_row_without_a_valid_price_is_skipped(row: Any) -> None:
    other = "accounts/fireworks/models/other"

    prices = normalize_fireworks_prices([row, price_row(other, "1", None, "2")], TODAY)

    assert list(prices) == [(other, STANDARD_TIER)]


def test_a_row_without_a_price_of_output_is_for_a_model_that_has_none() -> None:
    embedder, row = "accounts/fireworks/models/e", price_row("accounts/fireworks/models/e", "1.4", None, "1")
    prices = normalize_fireworks_prices([row | {"pricing": row["pricing"][:1]}], TODAY)
    price = prices[embedder, STANDARD_TIER]
    assert (price.prompt, price.completion) == (Decimal("0.0000014"), None)
    assert compute_cost(price, 1000, 0, 0) == Decimal("0.0014")


def test_fireworks_half_price_for_cached_tokens_is_applied_and_named_in_the_source() -> None:
    list_fireworks_prices(price_row(GLM, "1.4", None, "4.4"))

    price = get_price("fireworks", GLM)

    assert price is not None
    assert (price.input_cache_read, price.source) == (Decimal("0.0000007"), "fireworks+half-price-cache")


def test_other_providers_without_a_cached_price_get_no_rule() -> None:
    set_listed_prices("chutes", {("a/m", STANDARD_TIER): Price(Decimal(1), Decimal(1), None, "chutes", None)})

    price = get_price("chutes", "a/m")

    assert price is not None
    assert price.input_cache_read is None


def test_the_package_supplies_prices_that_no_list_has() -> None:
    price = get_price("fireworks", "accounts/fireworks/models/gpt-oss-20b")

    assert price is not None
    assert price.source.startswith("genai-prices ")
    assert (price.prompt, price.completion, price.input_cache_read) == (
        Decimal("0.00000007"),
        Decimal("0.0000003"),
        Decimal("0.000000035"),
    )


@pytest.mark.parametrize(
    "model_id",
    [
        "accounts/fireworks/models/unknown",
        "accounts/fireworks/models/glm-5p3-base",
        "accounts/acme-example/models/glm-5p3",
        # A deployment is billed by the hour of its machines, not by the token.
        "accounts/fireworks/models/glm-5p3#accounts/acme-example/deployments/f0e1",
    ],
)
def test_a_model_without_a_price_does_not_get_that_of_a_similar_one(model_id: str) -> None:
    list_fireworks_prices(price_row(GLM, "1.4", "0.26", "4.4"))

    assert get_price("fireworks", model_id) is None


@pytest.mark.parametrize("provider_name", ["featherless", "deepinfra", "chutes"])
def test_fireworks_prices_do_not_apply_to_other_providers(provider_name: str) -> None:
    list_fireworks_prices(price_row(GLM, "1.4", "0.26", "4.4"))

    assert get_price(provider_name, GLM) is None


def test_the_operators_price_takes_precedence(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(
        'unit = "usd_per_million_tokens"\ndate = 2026-11-01\n'
        f'[fireworks."{GLM}"]\nprompt = 1.00\ncompletion = 3.5\ninput_cache_read = 0.2\n'
        f'[fireworks."{GLM}".priority]\nprompt = 2\ncompletion = 4\n'
        '[featherless."*"]\nprompt = 0\ncompletion = 0\n'
        '[featherless."a/dear"]\nprompt = 5\ncompletion = 5\n'
    )
    with catalogs_of({"PRICE_FILE": str(path)}):
        list_fireworks_prices(price_row(GLM, "1.4", "0.26", "4.4"))
        standard, priority = get_price("fireworks", GLM), get_price("fireworks", GLM, "priority")
        flat, dear = get_price("featherless", "a/any"), get_price("featherless", "a/dear")

    per_million = Decimal("0.000001")
    since = datetime.date(2026, 11, 1)
    assert standard == Price(per_million, Decimal("0.0000035"), Decimal("0.0000002"), "price_file", since)
    assert priority is not None and priority.source == "price_file+half-price-cache"
    assert priority.input_cache_read == per_million
    assert flat is not None and compute_cost(flat, 1000, 0, 1000) == 0
    assert dear is not None and dear.prompt == 5 * per_million


def test_a_price_is_looked_up_in_the_package_once_a_day() -> None:
    packaged._look_up.cache_clear()

    for _ in range(100):
        get_price("fireworks", "accounts/fireworks/models/gpt-oss-20b")

    assert packaged._look_up.cache_info().misses == 1
