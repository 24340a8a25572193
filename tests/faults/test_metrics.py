"""Metrics of several workers: any worker shows the sum of all, even killed ones, and junk makes no series."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest

from app.metric_labels import MAX_ERRORS
from tests.conftest import MakeGateway
from tests.support.answers import json_answer
from tests.support.chat import PREFIX, post_chat, request
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

WORKERS = 2


def scrape(gateway: Gateway) -> str:
    """Returns the metrics of all workers as any one of them shows them."""
    seen = request("GET", f"{gateway.url}/metrics")
    assert seen.status == 200
    return seen.body.decode()


def total(text: str, name: str) -> float:
    """Returns the sum of a metric over its labels."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def several(gateways: Gateways, session_database_url: str, shared_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """A gateway of several workers whose gauges are set."""
    with gateways.running(session_database_url, shared_upstream.settings, workers=WORKERS) as gateway:
        wait_until(lambda: scrape(gateway).count("gateway_catalog_age_seconds{") == 1, 30, "the gauges")
        yield gateway


@soak_only("test_metrics.py::test_a_killed_worker_leaves_exact_numbers_in_a_file_that_has_grown")
def test_the_sum_survives_a_worker_that_is_killed(several: Gateway, upstream: ScriptedUpstream) -> None:
    requests, tokens = (total(scrape(several), f"gateway_{kind}_total") for kind in ("requests", "tokens"))
    for number in range(24):
        assert post_chat(several, f"{PREFIX}sum", stream=False).status == 200, number
    # A worker counts a request after sending the response, so the last count may be a moment late.
    wait_until(lambda: total(scrape(several), "gateway_requests_total") == requests + 24, what="all to be counted")
    assert total(scrape(several), "gateway_tokens_total") == tokens + 24 * (11 + 3)

    os.kill(several.worker_pids()[0], signal.SIGKILL)
    for _ in range(10):
        assert total(scrape(several), "gateway_requests_total") == requests + 24
    wait_until(lambda: len(several.worker_pids()) == WORKERS, what="new workers")
    assert post_chat(several, f"{PREFIX}sum").status == 200
    wait_until(lambda: total(scrape(several), "gateway_requests_total") == requests + 25, what="the new one to count")


@soak_only("test_metrics.py::test_a_killed_worker_leaves_exact_numbers_in_a_file_that_has_grown")
def test_a_killed_worker_leaves_the_gauges(several: Gateway) -> None:
    workers = set(several.worker_pids())
    wait_until(lambda: _with_gauges(several) >= workers, what="the gauges of all workers")
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not workers & set(several.worker_pids()), what="the workers to be replaced")
    wait_until(lambda: not workers & _with_gauges(several), what="the gauges of the dead to go")
    assert total(scrape(several), "gateway_live_requests") == 0


def _with_gauges(gateway: Gateway) -> set[int]:
    """Returns the process ids of the workers whose gauges are in the sums."""
    directory = gateway.root / "var" / "metrics" / str(gateway.port)
    return {int(file.stem.rpartition("_")[2]) for file in directory.glob("gauge_live*")}


@soak_only("test_metrics.py::test_the_reasons_of_fallbacks_are_counted_and_bounded")
def test_names_that_a_client_makes_up_get_no_series(several: Gateway, upstream: ScriptedUpstream) -> None:
    gateway = several
    post_chat(gateway, f"{PREFIX}known")
    before = len(scrape(gateway).splitlines())
    for number in range(20):
        post_chat(gateway, f"junk-{number}")
        post_chat(gateway, f"junk-{number}", provider="fireworks")
        request("GET", f"{gateway.url}/junk-{number}")
    text = scrape(gateway)
    assert "junk" not in text
    # Series for other outcomes and kinds may appear, but none for names.
    assert len(text.splitlines()) < before + 60


@soak_only("test_metrics.py::test_the_reasons_of_fallbacks_are_counted_and_bounded")
def test_words_that_a_provider_makes_up_get_a_bounded_number_of_series(
    make_gateway: MakeGateway, upstream: ScriptedUpstream
) -> None:
    gateway = make_gateway(upstream.settings)
    for number in range(MAX_ERRORS + 20):
        refusal = json_answer({"error": {"message": "no", "code": f"made-up-{number}"}}, 400)
        upstream.on_model(f"refused-{number}-", refusal)
        assert post_chat(gateway, f"{PREFIX}refused-{number}-").status == 400
    wait_until(lambda: total(scrape(gateway), "gateway_upstream_errors_total") == MAX_ERRORS + 20, what="the counts")
    text = scrape(gateway)
    assert text.count("made-up-") == MAX_ERRORS and 'error="other"' in text
