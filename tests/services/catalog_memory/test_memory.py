"""Changed lists of providers are kept once, whichever worker brings them, and a rise of a price in use is reported."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from xml.etree import ElementTree

import pytest
from flask import Flask
from sqlalchemy import Engine

from app import create_app
from app.config import load_settings
from app.db import get_engine
from app.db.catalog import ModelChange
from app.runtime import get_component, use_settings
from app.services.catalog_memory import find_price_at, select_known_prices
from app.services.catalog_memory.keeping import keep_list
from app.services.catalog_memory.memory import CatalogMemory
from app.services.models import Catalogs, ModelList
from app.services.models.entry import ModelPacker
from app.services.pricing import STANDARD_TIER, Price, Prices
from app.services.providers import PROVIDERS
from tests.db.rows import insert_rows, make_row

FIREWORKS = PROVIDERS["fireworks"]
KEY = "gw_test_operator_key"
BEGIN = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def app(database_url: str) -> Iterator[Flask]:
    """An application on the test's own database."""
    settings = {"DATABASE_URL": database_url, "GATEWAY_API_KEY": KEY, "FIREWORKS_API_KEY": "fw_REPLACE_ME"}
    yield create_app(load_settings(settings))
    use_settings(None)


@pytest.fixture
def engine(app: Flask) -> Engine:
    """The engine of that database."""
    return get_engine()


def make_list(hours: float, **entries: dict[str, Any]) -> ModelList:
    """Returns a list of Fireworks that was fetched some hours after BEGIN: short name → fields of its entry.

    In addition to Fireworks' fields, an entry may have `price`: (prompt, completion) in USD per million tokens. This
    process then uses these prices.
    """
    packer, prices = ModelPacker(), {}
    models = []
    for name, fields in entries.items():
        raw = {"id": f"accounts/fireworks/models/{name}", "supports_chat": True, **fields}
        amounts = raw.pop("price", None)
        models.append(packer.pack(FIREWORKS.normalize(raw)))
        if amounts:
            prompt, completion = (Decimal(str(amount)) / 1_000_000 for amount in amounts)
            prices[raw["id"], STANDARD_TIER] = Price(prompt, completion, None, "fireworks", BEGIN.date())
    get_component(Prices).set_listed_prices("fireworks", prices)
    models = [packer.set_price(each, get_component(Prices).get_price(FIREWORKS.billing, each.id)) for each in models]
    made = ModelList(models, FIREWORKS.naming)
    made.fetched_at = BEGIN + timedelta(hours=hours)
    return made


def keep(engine: Engine, models: ModelList) -> list[ModelChange] | None:
    """Keeps a list as a worker does."""
    with engine.begin() as connection:
        return keep_list(connection, FIREWORKS, models, get_component(Prices))


def tell(changes: list[ModelChange] | None) -> list[tuple[str, str]]:
    """Returns the kind and the short name of each change."""
    assert changes is not None
    return sorted((change.kind, change.model.rpartition("/")[2]) for change in changes)


def test_what_changes_between_two_lists_is_told_once_and_in_order(app: Flask, engine: Engine) -> None:
    one, two = {"price": (1, 4), "context_length": 1000}, {"price": (2, 2)}
    assert keep(engine, make_list(0, one=one, two=two)) == []  # Models of the first list do not count as new.
    assert keep(engine, make_list(1, one=one, two=two)) == []
    dearer = one | {"price": (1.5, 4), "context_length": 2000}
    ending = two | {"deprecationDate": {"year": 2026, "month": 12, "day": 1}}
    changed = make_list(2, one=dearer, two=ending, three={})
    assert tell(keep(engine, changed)) == [
        ("added", "three"),
        ("context", "one"),
        ("deprecation", "two"),
        ("price", "one"),
    ]
    assert keep(engine, changed) == []
    assert keep(engine, make_list(1.5, one=one)) == []  # Fetched before the kept one, by a slower worker.
    # A list of prices that did not load is no change of prices.
    assert tell(keep(engine, make_list(3, one={"context_length": 2000}, three={}))) == [("removed", "two")]
    assert tell(keep(engine, make_list(4, one=dearer, two=two, three={"price": (1, 1)}))) == [
        ("added", "two"),
        ("price", "three"),
    ]

    client, headers = app.test_client(), {"Authorization": f"Bearer {KEY}"}
    assert client.get("/api/catalog/changes").status_code == 401
    page = client.get("/api/catalog/changes?gateway=fireworks", headers=headers).get_json()
    assert [change["kind"] for change in page["data"]][-1] != "removed" and len(page["data"]) == 7
    rise = next(change for change in page["data"] if change["kind"] == "price" and change["model"].endswith("one"))
    assert (rise["before"]["prompt"], rise["after"]["prompt"], rise["after"]["completion"]) == (
        "0.000001",
        "0.0000015",
        "0.000004",
    )
    assert "context_length" not in rise["after"] and rise["at"] == "2026-11-01T02:00:00Z"
    later = client.get("/api/catalog/changes?since=2026-11-01T02:00:00Z", headers=headers).get_json()["data"]
    assert later == page["data"][: len(later)] and len(later) == 3
    first = client.get("/api/catalog/changes?limit=2", headers=headers).get_json()
    rest = client.get(f"/api/catalog/changes?cursor={first['next_cursor']}", headers=headers).get_json()
    assert first["data"] + rest["data"] == page["data"] and not rest["has_more"]
    kinds = client.get("/api/catalog/changes?kind=removed,deprecation", headers=headers).get_json()["data"]
    assert [change["kind"] for change in kinds] == ["removed", "deprecation"]
    assert kinds[1]["after"] == {"expiration_date": "2026-12-01"}

    feed = client.get("/api/catalog/changes?format=atom", headers=headers)
    assert feed.content_type == "application/atom+xml; charset=utf-8"
    names = {"a": "http://www.w3.org/2005/Atom"}
    entries = ElementTree.fromstring(feed.data).findall("a:entry", names)
    assert len({entry.findtext("a:id", None, names) for entry in entries}) == 7
    contents = [entry.findtext("a:content", None, names) for entry in entries]
    assert "prompt 1 → 1.5 USD per million tokens" in contents and "context_length 1000 → 2000" in contents
    assert client.get(
        "/api/catalog/changes", headers=headers | {"Accept": "application/atom+xml"}
    ).data == feed.data.replace(b"?format=atom", b"")

    with engine.connect() as connection:
        prices = select_known_prices(connection, "fireworks", "accounts/fireworks/models/one")
        three = select_known_prices(connection, "fireworks", "accounts/fireworks/models/three")
        assert select_known_prices(connection, "fireworks", "nothing") == []
    assert [(each.since, each.price.prompt) for each in prices][0] == (BEGIN, Decimal("0.000001"))
    before, after = (find_price_at(prices, BEGIN + timedelta(hours=hours)) for hours in (1.9, 2))
    assert before is not None and after is not None
    assert (before[0].price.prompt, after[0].price.prompt) == (Decimal("0.000001"), Decimal("0.0000015"))
    early = find_price_at(three, BEGIN + timedelta(hours=3))
    assert early is not None and not early[1] and early[0].since == BEGIN + timedelta(hours=4)


def test_of_many_workers_with_the_same_list_one_keeps_each_change(engine: Engine) -> None:
    keep(engine, make_list(0, one={}))
    changed = make_list(1, **{f"model-{number}": {} for number in range(300)})
    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda _: keep(engine, changed), range(8)))
    assert sorted(len(each or []) for each in told) == [0] * 7 + [301]
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM catalog_change").scalar() == 301


def test_a_price_that_rises_is_told_of_models_in_use(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    used = make_row(started_at=now - timedelta(days=1), model_served="accounts/fireworks/models/used")
    insert_rows(
        engine, [used, make_row(started_at=now - timedelta(days=20), model_served="accounts/fireworks/models/idle")]
    )
    memory, cache = get_component(CatalogMemory), get_component(Catalogs).get_catalog(FIREWORKS).cache
    for hours, price in ((0, (1, 4)), (1, (1.25, 4))):
        models = make_list(hours, used={"price": price}, idle={"price": price})
        cache.update(data=models, timestamp=time.monotonic())
        memory.keep_new_lists()
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    (raised,) = [line for line in lines if line["event"] == "model_price_raised"]
    assert (raised["model"], raised["requests_of_a_week"]) == ("accounts/fireworks/models/used", 1)
    assert (raised["before"], raised["after"]) == ({"prompt": "0.000001"}, {"prompt": "0.00000125"})
