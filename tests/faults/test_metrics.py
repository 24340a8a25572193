"""Metrics of several workers: one sum whichever is asked, also right after one was killed, and no series of junk."""

from __future__ import annotations

import os
import re
import signal

from app.metrics import MAX_ERRORS
from tests.conftest import MakeGateway
from tests.support.answers import json_answer
from tests.support.chat import PREFIX, post_chat, request
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.waiting import wait_until

WORKERS = 3


def scrape(gateway: Gateway) -> str:
    """Returns what one worker, whichever it is, says of all."""
    seen = request("GET", f"{gateway.url}/metrics")
    assert seen.status == 200
    return seen.body.decode()


def total(text: str, name: str) -> float:
    """Returns the sum of a metric over its labels."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


def start(make_gateway: MakeGateway, upstream: ScriptedUpstream) -> Gateway:
    settings = {"FIREWORKS_BASE_URL": upstream.base_url, "FIREWORKS_API_KEY": "fw_test"}
    return make_gateway(settings, workers=WORKERS)


def test_the_sum_survives_a_worker_that_is_killed(make_gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    gateway = start(make_gateway, upstream)
    for number in range(24):
        assert post_chat(gateway, f"{PREFIX}sum", stream=False).status == 200, number
    # A worker counts a request when its answer has left, so the last one may come a moment later.
    wait_until(lambda: total(scrape(gateway), "gateway_requests_total") == 24, what="all requests to be counted")
    assert total(scrape(gateway), "gateway_tokens_total") == 24 * (11 + 3)

    for worker in gateway.worker_pids()[:2]:
        os.kill(worker, signal.SIGKILL)
    for _ in range(10):
        assert total(scrape(gateway), "gateway_requests_total") == 24
    wait_until(lambda: len(gateway.worker_pids()) == WORKERS, what="new workers")
    assert post_chat(gateway, f"{PREFIX}sum").status == 200
    wait_until(lambda: total(scrape(gateway), "gateway_requests_total") == 25, what="the new one to be counted")


def test_a_killed_worker_leaves_the_gauges(make_gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    gateway = start(make_gateway, upstream)
    wait_until(lambda: scrape(gateway).count("gateway_catalog_age_seconds{") == 1, 30, "the gauges")
    workers = gateway.worker_pids()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not set(workers) & set(gateway.worker_pids()), what="the workers to be replaced")
    directory = gateway.root / "var" / "metrics" / str(gateway.port)
    wait_until(
        lambda: not [file for file in directory.glob("gauge_live*") if int(file.stem.rpartition("_")[2]) in workers],
        what="the gauges of the dead to go",
    )
    assert total(scrape(gateway), "gateway_live_requests") == 0


def test_names_that_a_client_makes_up_get_no_series(make_gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    gateway = start(make_gateway, upstream)
    post_chat(gateway, f"{PREFIX}known")
    before = len(scrape(gateway).splitlines())
    for number in range(20):
        post_chat(gateway, f"junk-{number}")
        post_chat(gateway, f"junk-{number}", provider="fireworks")
        request("GET", f"{gateway.url}/junk-{number}")
    text = scrape(gateway)
    assert "junk" not in text
    # Other outcomes and kinds may appear, names may not.
    assert len(text.splitlines()) < before + 60


def test_words_that_a_provider_makes_up_get_a_bounded_number_of_series(
    make_gateway: MakeGateway, upstream: ScriptedUpstream
) -> None:
    settings = {"FIREWORKS_BASE_URL": upstream.base_url, "FIREWORKS_API_KEY": "fw_test"}
    gateway = make_gateway(settings)
    for number in range(MAX_ERRORS + 20):
        refusal = json_answer({"error": {"message": "no", "code": f"made-up-{number}"}}, 400)
        upstream.on_model(f"refused-{number}-", refusal)
        assert post_chat(gateway, f"{PREFIX}refused-{number}-").status == 400
    wait_until(lambda: total(scrape(gateway), "gateway_upstream_errors_total") == MAX_ERRORS + 20, what="the counts")
    text = scrape(gateway)
    assert text.count("made-up-") == MAX_ERRORS and 'error="other"' in text
