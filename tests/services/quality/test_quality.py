"""The quality of a model: the requests that count, the id under which they do, and its lifetime."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from app.config import load_settings
from app.db import get_engine
from app.db.recent_quality import FirstTokenTimes, GivenUp, OutcomeSums, RecentQuality
from app.db.tables import OUTCOMES
from app.runtime import get_component, use_settings
from app.services.models import get_model_list
from app.services.providers import PROVIDERS
from app.services.quality import UNKNOWN, get_quality, quality
from app.services.quality.quality import Quality, make_quality
from tests.db.rows import insert_rows, make_row
from tests.support.catalogs import (
    FIREWORKS_LIST,
    catalogs_of,
    fireworks_rows,
    list_answer,
    provider_environment,
    root_of,
)
from tests.support.gateway import base_settings
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.waiting import wait_until

MODEL = "accounts/fireworks/models/glm-5p3"
LISTED = "accounts/fireworks/models/idle"


def outcome(name: str, error_type: str = "", requests: int = 1, model: str = MODEL) -> OutcomeSums:
    """Returns sums of requests at Fireworks, each of which took a second for 50 tokens if it was served."""
    served = requests if name == "ok" else 0
    return OutcomeSums("fireworks", model, name, error_type, requests, 50 * served, 1000.0 * served)


def test_only_what_the_provider_served_or_failed_to_serve_counts() -> None:
    failures = {"upstream_error", "upstream_cut", "upstream_timeout"}
    rows = [outcome(name, requests=1 + number) for number, name in enumerate(OUTCOMES)]
    wrong = [outcome("upstream_error", "invalid_request_error", 100), outcome("upstream_error", "rate_limit_error", 7)]
    failed = 7 + sum(row.requests for row in rows if row.outcome in failures)

    found = make_quality(RecentQuality([*rows, *wrong], [], [GivenUp("fireworks", MODEL, 4)]))["fireworks", MODEL]

    assert found.requests == failed + 1 + 4
    assert found.error_share == (failed + 4) / (failed + 1 + 4)
    assert found.tokens_per_second == 50.0 and found.ttft_ms is None


def test_what_was_not_measured_is_none() -> None:
    found = make_quality(RecentQuality([outcome("rejected"), outcome("client_gone", model="other")], [], []))

    assert found["fireworks", MODEL] == UNKNOWN
    assert (UNKNOWN.error_share, UNKNOWN.ttft_ms, UNKNOWN.tokens_per_second) == (None, None, None)
    assert make_quality(RecentQuality([], [], [])) == {}


def test_a_model_that_responses_name_otherwise_is_counted_under_its_listed_id(upstream: ScriptedUpstream) -> None:
    upstream.on_path(FIREWORKS_LIST, list_answer(fireworks_rows("glm-5p3", "idle")))
    with catalogs_of(provider_environment(root_of(upstream), ["fireworks"])):
        get_model_list(PROVIDERS["fireworks"])
        first_tokens = [
            FirstTokenTimes("fireworks", name, {bucket: count})
            for name, bucket, count in [(MODEL, 48, 1), ("glm-5p3", 60, 3)]
        ]
        rows = [outcome("ok"), outcome("upstream_error", model="fireworks/glm-5p3"), outcome("ok", model="glm-5p3")]

        given_up = [GivenUp("fireworks", name, 2) for name in (LISTED, "unlisted", "invented")]
        found = make_quality(RecentQuality([*rows, outcome("ok", model="unlisted")], first_tokens, given_up))

    assert set(found) == {("fireworks", MODEL), ("fireworks", LISTED), ("fireworks", "unlisted")}
    assert found["fireworks", LISTED].error_share == 1.0 and found["fireworks", "unlisted"].requests == 3
    measured = found["fireworks", MODEL]
    assert (measured.requests, measured.error_share) == (3, 1 / 3)
    assert measured.ttft_ms is not None and 250 < measured.ttft_ms.p50 < 320  # Over both names.


@pytest.fixture
def component(database_url: str, tmp_path: Path) -> Iterator[Quality]:
    """The component on the test's database, not started."""
    use_settings(load_settings(base_settings(tmp_path, database_url)))
    yield get_component(Quality)
    use_settings(None)


def test_it_is_kept_for_a_while_without_the_database_and_then_unknown(
    component: Quality, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_rows(get_engine(), [make_row(started_at=datetime.now(UTC), model_served=MODEL)])
    assert get_quality("fireworks", MODEL) is UNKNOWN
    component.start()
    known = wait_until(lambda: (found := get_quality("fireworks", MODEL)).requests and found)
    assert known.error_share == 0.0 and known.tokens_per_second == 50.0
    assert known.ttft_ms is not None and abs(known.ttft_ms.p50 - 500) < 25

    monkeypatch.setattr(quality, "select_recent_quality", _fail)
    component.refresh()
    assert get_quality("fireworks", MODEL) == known

    later_s = time.monotonic() + quality._KEPT_S + 1
    monkeypatch.setattr(quality, "time", SimpleNamespace(monotonic=lambda: later_s))
    assert get_quality("fireworks", MODEL) is UNKNOWN


def _fail(*_: object) -> None:
    raise quality.DatabaseError("away")
