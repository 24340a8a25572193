"""The playground in a real browser: it streams through the pipeline, compares models, and shows calls that work."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.dashboard.conftest import HOSTILE, MODEL, Pages
from tests.dashboard.test_pages import click_through
from tests.support.gateway import clean_environment
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

OpenPage = Callable[..., Any]

OTHER = "accounts/fireworks/models/kimi-k3"
APIS = ("/v1/chat/completions", "/v1/messages", "/v1/responses")
STREAMS = soak_only("dashboard/test_playground.py::test_answers_stream_side_by_side_and_cost_what_their_records_say")


def fact_of(card: Any, name: str) -> str:
    """Returns a fact that a card shows about its answer."""
    return str(card.locator(f"[data-fact={name}]").inner_text())


@pytest.mark.parametrize("api", [APIS[0], *(pytest.param(api, marks=STREAMS) for api in APIS[1:])])
def test_answers_stream_side_by_side_and_cost_what_their_records_say(
    dashboard: Pages, open_page: OpenPage, api: str
) -> None:
    page = open_page(dashboard.bob)
    before = len(dashboard.ask("/api/activity", dashboard.bob)["data"])
    # A link fills in the form, and sends nothing.
    page.goto(f"{dashboard.url}/playground?api={api}&model={MODEL},{OTHER}&message=Write+400+words+about+{HOSTILE}")
    page.wait_for_timeout(200)
    assert page.locator(".answer").count() == 0
    page.fill("[name=system]", "Be brief, it's late.")
    page.click("#send")
    # The first words are shown before the last ones arrive.
    page.locator(".answer .state", has_text="answering").first.wait_for()
    first = page.locator(".turn.assistant").first
    first.locator("text=/sandbox/").wait_for()
    early = first.inner_text()
    assert page.locator("#answers").get_attribute("aria-busy") == "true"
    page.locator("#answers[aria-busy=false]").wait_for()
    assert len(first.inner_text()) > len(early)
    assert page.locator("img").count() == 0 and HOSTILE in page.locator(".turn.user").first.inner_text()
    records = dashboard.ask("/api/activity", dashboard.bob)["data"][: len(page.locator(".answer").all())]
    assert {record["model_served"] for record in records} == {MODEL, OTHER}
    assert len(dashboard.ask("/api/activity", dashboard.bob)["data"]) == before + 2
    for card in page.locator(".answer").all():
        (record,) = [each for each in records if each["model_served"] == card.locator("h2").get_attribute("title")]
        assert record["endpoint"] == api and record["key_id"] == dashboard.bob.split("_")[1]
        assert float(fact_of(card, "cost").removeprefix("$")) == pytest.approx(record["cost_usd"])
        assert fact_of(card, "tokens") == f"{record['prompt_tokens']}, {record['completion_tokens']}"
        assert fact_of(card, "speed").endswith("tokens/s") and re.search(r"\d m?s", fact_of(card, "first"))
    click_through(page, "[data-fact=request] a >> nth=0")
    assert "Request" in page.locator("h1").inner_text()


@soak_only("dashboard/test_playground.py::test_answers_stream_side_by_side_and_cost_what_their_records_say")
def test_a_conversation_goes_on_stops_and_says_what_failed(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page(dashboard.bob)
    page.goto(f"{dashboard.url}/playground?model={MODEL}")
    for number, text in enumerate(("My name is Ada.", "And I am 36."), start=1):
        page.fill("[name=message]", text)
        page.keyboard.press("Control+Enter")
        # The busy state is not asserted, because it may be over before the test looks.
        page.locator(".turn.user").nth(number - 1).wait_for()
        page.locator("#answers[aria-busy=false]").wait_for()
    assert page.locator(".turn.user").count() == 2
    sent = json.loads(re.findall(r"-d '(.*)'", page.locator("#code pre").first.text_content(), re.DOTALL)[0])
    assert [turn["role"] for turn in sent["messages"]] == ["user", "assistant", "user"]
    page.fill("[name=message]", "Write 5000 words.")
    page.click("#send")
    page.locator(".answer .state", has_text="answering").wait_for()
    page.click("#stop")
    page.locator(".answer .state", has_text="stopped").wait_for()
    page.locator("#answers[aria-busy=false]").wait_for()
    wait_until(
        lambda: dashboard.ask("/api/activity?outcome=client_gone", dashboard.bob)["data"], what="the stopped request"
    )
    page.click("#clear")
    page.locator(".model").first.fill("sandbox-error-event")
    page.fill("[name=message]", "Hello!")
    page.click("#send")
    page.locator(".turn.error", has_text="Retry").wait_for()


@pytest.mark.parametrize("api", APIS)
def test_the_calls_that_it_shows_work_as_they_are(dashboard: Pages, tmp_path: Path, api: str) -> None:
    with dashboard.sign_in(dashboard.bob) as session:
        shown = session.get(
            f"{dashboard.url}/playground",
            params={"api": api, "model": MODEL, "message": 'It\'s "quoted" \\ and $HOME', "max_tokens": "50"},
            timeout=30,
        ).text
    code = [html.unescape(each) for each in re.findall(r"<pre [^>]*>(.*?)</pre>", shown, re.DOTALL)]
    environment = clean_environment() | {"GATEWAY_API_KEY": dashboard.bob, "NO_PROXY": "*"}
    commands = [["bash", "-c", code[0]]] if shutil.which("curl") else []
    commands.append([sys.executable, "-c", code[1]])
    if shutil.which("node") and api == APIS[0]:
        (tmp_path / "call.mjs").write_text(code[2])
        commands.append(["node", str(tmp_path / "call.mjs")])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert done.returncode == 0 and "sandbox" in done.stdout and "HOME" in done.stdout, done.stderr


def test_only_who_is_signed_in_may_send_and_no_other_site_may(dashboard: Pages) -> None:
    address, body = f"{dashboard.url}/playground/v1/chat/completions", {"model": MODEL, "messages": []}
    with dashboard.sign_in(dashboard.bob) as session:
        signed_in = dict(session.cookies)
        wrong = session.post(address, json=body, timeout=30)
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "messages"
    foreign = requests.post(
        address, json=body, cookies=signed_in, headers={"Origin": "https://evil.example"}, timeout=30
    )
    assert foreign.status_code == 403 and foreign.json()["error"]["type"] == "permission_error"
    nobody = requests.post(address, json=body, headers={"Origin": dashboard.gateway.url}, timeout=30)
    assert nobody.status_code == 401 and nobody.json()["error"]["code"] == "signed_out"
