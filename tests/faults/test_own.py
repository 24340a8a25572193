"""Properties of requests while the gateway, its database or its catalogs fail, directly and behind nginx."""

from __future__ import annotations

from tests.faults.own import SETTINGS, Ordeal
from tests.faults.table import SLACK_S
from tests.support.soak import soak_only

pytestmark = soak_only("test_operation_stop.py::test_what_outlives_the_drain_is_ended_told_and_recorded")


def test_every_request_has_its_row(ordeal: Ordeal) -> None:
    for event in ordeal.events:
        assert event.rows and {row["outcome"] for row in event.rows.values()} == {event.outcome}, event.name


def test_no_client_takes_a_broken_answer_for_a_complete_one(ordeal: Ordeal) -> None:
    for event in ordeal.events:
        is_fine = event.outcome == "ok"
        for met in event.met.values():
            assert (met.status == 200 and met.ended == "complete") is is_fine, event.name
            assert is_fine or b"[DONE]" not in met.body
        assert {words == "completes" for words in event.sdk.values()} == {is_fine}, event.name
        assert {words == "0" for words in event.curl.values()} <= {is_fine}, event.name


def test_nothing_is_sent_to_the_provider_twice_when_a_worker_dies(ordeal: Ordeal) -> None:
    for event in ordeal.events:
        if event.outcome == "lost":
            assert set(event.provider.values()) == {"1 request, hung up on"}


def test_a_stop_is_over_in_time(ordeal: Ordeal) -> None:
    drain_s = float(SETTINGS["DRAIN_TIMEOUT"])
    for event in ordeal.events:
        if event.outcome == "gateway_shutdown":
            assert all(drain_s <= met.took_s < drain_s + 1 + SLACK_S for met in event.met.values()), event.name


def test_an_open_breaker_shows_and_says_that_no_retry_helps(ordeal: Ordeal) -> None:
    assert [(one["provider"], one["kind"]) for one in ordeal.breakers] == [("chutes", "account")]
    (event,) = [event for event in ordeal.events if "suspended" in event.name]
    assert all(met.headers["x-should-retry"] == "false" for met in event.met.values())
    assert not any("retry-after" in met.headers for met in event.met.values())


def test_a_full_gateway_refuses_fast_and_stays_alive(ordeal: Ordeal) -> None:
    (event,) = [event for event in ordeal.events if "MAX_LIVE_REQUESTS" in event.name]
    assert {(met.status, met.headers["retry-after"]) for met in event.met.values()} == {(503, "1")}
    assert ordeal.health_when_full == 200
