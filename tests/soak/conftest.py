"""Fixtures shared by the soak tests: an upstream that serves all kinds of requests, and a gateway in front of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import MakeGateway
from tests.soak.kinds import PRICES, teach
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream

MakeAudited = Callable[..., Gateway]

# test_costs.py compares CPU times for a minute, and they are only comparable if nothing else is running.
collect_ignore = [] if os.environ.get("SOAK") else ["test_costs.py"]


@pytest.fixture
def taught() -> Iterator[ScriptedUpstream]:
    """An upstream for one test that has the script of each kind of request."""
    with ScriptedUpstream() as upstream:
        teach(upstream)
        yield upstream


@pytest.fixture
def audited_gateway(make_gateway: MakeGateway, taught: ScriptedUpstream, tmp_path: Path) -> MakeAudited:
    """A function `(settings={}, workers=2)` that starts a gateway before `taught`; its journal is in tmp_path/journal.

    The upstream is asked once for each request unless the settings say otherwise, and every answer has a price.
    """
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)

    def make(settings: Mapping[str, str] | None = None, workers: int = 2) -> Gateway:
        chosen = {
            **taught.settings,
            "PRICE_FILE": str(prices),
            "JOURNAL_DIR": str(tmp_path / "journal"),
            "UPSTREAM_RETRIES": "0",
        }
        return make_gateway(chosen | dict(settings or {}), workers=workers)

    return make


@pytest.fixture
def victim_url(victim: Postgres) -> Iterator[str]:
    """The address of a fresh, migrated database on `victim` for one test; the server is up again at its end."""
    url = victim.create_migrated_database()
    yield url
    victim.resume()
    if victim.pid is None:
        victim.start()
