"""The catalog of a real gateway under gunicorn, in front of the sandbox's four providers."""

from __future__ import annotations

import json
from typing import Any
from urllib.request import Request, urlopen

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tests.support.gateway import Gateway
from tests.support.waiting import wait_until


def _get(gateway: Gateway, path: str) -> dict[str, Any]:
    with urlopen(Request(gateway.url + path, headers=gateway.headers), timeout=30) as answer:
        body: dict[str, Any] = json.load(answer)
    return body


def test_the_four_lists_are_loaded_at_boot_and_listed_searched_and_looked_up(gateway_of_four: Gateway) -> None:
    four = gateway_of_four
    catalogs = _get(four, "/ready")["catalogs"]
    totals = {name: _get(four, f"/api/catalog/models?gateway={name}&limit=1")["total"] for name in catalogs}
    assert totals == {"fireworks": 48, "featherless": 22_000, "deepinfra": 193, "chutes": 16}
    assert _get(four, "/api/catalog/models?limit=1")["total"] == sum(totals.values())
    assert _get(four, "/api/catalog/models?gateway=featherless&search=quokka+32b")["returned"] > 0
    assert len(_get(four, "/v1/models")["data"]) == sum(totals.values())

    documented = _get(four, "/api/catalog/model/accounts/fireworks/deepseek-v3p1?gateway=fireworks")

    assert documented["data"]["id"] == "accounts/fireworks/models/deepseek-v3p1"


def test_every_entry_of_all_four_is_complete_and_priced_in_usd_per_token(gateway_of_four: Gateway) -> None:
    for name in ("fireworks", "featherless", "deepinfra", "chutes"):
        entries = _get(gateway_of_four, f"/api/catalog/models?gateway={name}")["data"]
        assert len({frozenset(entry) for entry in entries}) == 1
        assert {entry["source_gateway"] for entry in entries} == {name}
        assert not [entry["id"] for entry in entries if entry["context_length"] == 0 or entry["created"] == 0]
        prompts = [entry["pricing"]["prompt"] for entry in entries if entry["pricing"]["prompt"] is not None]
        # From 0.001 to 100 USD per million tokens; a wrong unit would be off by a million.
        assert prompts
        assert all(1e-9 <= float(prompt) <= 1e-4 for prompt in prompts)


def test_a_worker_keeps_the_lists_that_it_has_loaded(gateway: Gateway, session_database_url: str) -> None:
    """The first lists are kept without changes; tests/services/catalog_memory tests changes."""
    engine = create_engine(session_database_url, poolclass=NullPool)

    def count() -> int:
        with engine.connect() as connection:
            query = "SELECT count(*) FROM catalog_model JOIN catalog_list USING (provider) WHERE provider = 'fireworks'"
            return int(connection.exec_driver_sql(query).scalar_one())

    wait_until(count, what="the kept list of Fireworks")
