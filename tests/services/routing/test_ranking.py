"""The order of targets: by price, latency and throughput, by weights, and one target for one conversation."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest
from app.services.endpoints import MaxPrice, ProviderChoice, Sort
from app.services.pricing import Price
from app.services.providers import PROVIDERS
from app.services.quality import Latencies, ModelQuality
from app.services.routing import Target, make_seed, order_targets, ranking
from app.services.routing.affinity import draw
from app.services.routing.route import Group, Route

FIREWORKS, DEEPINFRA, CHUTES = (Target(PROVIDERS[name], "m") for name in ("fireworks", "deepinfra", "chutes"))
THREE = (FIREWORKS, DEEPINFRA, CHUTES)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chutes is the cheapest, DeepInfra has the least latency and the most throughput; Fireworks is unknown."""
    prices = {"deepinfra": ("2", "4"), "chutes": ("1", "6")}  # 2.5 and 2.25 for three prompt tokens and an output token
    qualities = {"deepinfra": (90.0, 80.0), "chutes": (300.0, 20.0)}

    def get_price(billing: object, model: str) -> Price | None:
        found = prices.get(billing.name)  # type: ignore[attr-defined]
        return None if found is None else Price(*(Decimal(text) / 10**6 for text in found), None, "test", None)

    def get_quality(provider: str, model: str) -> ModelQuality:
        found = qualities.get(provider)
        if found is None:
            return ModelQuality()
        return ModelQuality(requests=9, ttft_ms=Latencies(found[0], 1, 1, 1), tokens_per_second=found[1])

    monkeypatch.setattr(ranking, "get_price", get_price)
    monkeypatch.setattr(ranking, "get_quality", get_quality)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("price", [CHUTES, DEEPINFRA, FIREWORKS]),
        ("latency", [DEEPINFRA, CHUTES, FIREWORKS]),
        ("throughput", [DEEPINFRA, CHUTES, FIREWORKS]),
    ],
)
def test_the_best_comes_first_and_what_is_not_known_last(sort: Sort, expected: list[Target]) -> None:
    assert order_targets(Route([Group(THREE, sort)]), 0.0, None) == expected


def test_groups_keep_their_order() -> None:
    route = Route([Group((FIREWORKS,), "price"), Group((DEEPINFRA, CHUTES), "price")])
    assert order_targets(route, 0.0, None) == [FIREWORKS, CHUTES, DEEPINFRA]


@pytest.mark.parametrize(
    ("max_price", "expected"),
    [
        (MaxPrice(prompt=2), [CHUTES, DEEPINFRA]),
        (MaxPrice(prompt=1.9), [CHUTES]),
        (MaxPrice(prompt=2, completion=5.9), [DEEPINFRA]),
    ],
)
def test_dearer_targets_and_those_of_unknown_price_are_left_out(max_price: MaxPrice, expected: list[Target]) -> None:
    route = Route([Group(THREE, "price")], choice=ProviderChoice(max_price=max_price))
    assert order_targets(route, 0.0, None) == expected


def test_a_price_that_nobody_has_is_refused_with_the_prices() -> None:
    route = Route([Group(THREE, "price")], choice=ProviderChoice(max_price=MaxPrice(prompt=0.1)))
    with pytest.raises(BadRequest, match="fireworks: an unknown price; deepinfra: 2 for the prompt and 4 for output"):
        order_targets(route, 0.0, None)


def test_a_conversation_does_not_outweigh_a_price() -> None:
    route = Route([Group(THREE, "price")])
    assert all(order_targets(route, 0.0, make_seed("h", str(n)))[0] is CHUTES for n in range(50))


def test_conversations_divide_among_equally_good_targets_and_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    near = {"deepinfra": 100.0, "chutes": 149.0, "fireworks": 151.0}
    monkeypatch.setattr(
        ranking, "get_quality", lambda provider, model: ModelQuality(ttft_ms=Latencies(near[provider], 1, 1, 1))
    )
    conversations = [make_seed("h", str(number)) for number in range(100)]

    def ask(*targets: Target) -> list[str]:
        route = Route([Group(targets, "latency")])
        return [order_targets(route, 0.0, seed)[0].provider.name for seed in conversations]

    first = ask(*THREE)
    assert set(first) == {"deepinfra", "chutes"}
    near["deepinfra"] = 140.0  # Changes the order, but not the set of equally good providers.
    assert ask(DEEPINFRA, CHUTES) == first


def test_weights_divide_requests_and_conversations() -> None:
    weighted = (FIREWORKS._replace(weight=1.0), DEEPINFRA._replace(weight=3.0), CHUTES._replace(weight=6.0))
    route = Route([Group(weighted)])
    for seeds in ([make_seed("h", str(number)) for number in range(4_000)], [None] * 4_000):
        counts = Counter(order_targets(route, 0.0, seed)[0].provider.name for seed in seeds)
        assert [round(counts[name] / 4_000, 1) for name in ("fireworks", "deepinfra", "chutes")] == [0.1, 0.3, 0.6]


@given(st.text(), st.text(), st.lists(st.floats(0.01, 100), min_size=2, max_size=5))
def test_without_a_target_only_its_own_conversations_move(holder: str, session: str, weights: list[float]) -> None:
    targets = [Target(PROVIDERS["chutes"], f"m{n}", weight=weight) for n, weight in enumerate(weights)]
    seed = make_seed(holder, session)
    ordered = sorted(targets, key=lambda target: draw(seed, target))
    for gone in targets:
        left = min((target for target in targets if target is not gone), key=lambda target: draw(seed, target))
        assert left is (ordered[1] if gone is ordered[0] else ordered[0])


def test_equal_names_of_two_holders_are_two_conversations() -> None:
    route = Route([Group((FIREWORKS._replace(weight=1.0), CHUTES._replace(weight=1.0)))])
    firsts = {
        holder: order_targets(route, 0.0, make_seed(holder, "1"))[0].provider.name for holder in map(str, range(32))
    }
    assert set(firsts.values()) == {"fireworks", "chutes"}
