"""The pages in a real browser: figures equal the API's, and nobody sees the data of others."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from app.db.partitions import insert_partitions
from tests.dashboard.conftest import HOSTILE, MODEL, Pages
from tests.db.rows import insert_rows, make_row
from tests.support.chat import post_chat
from tests.support.gateway import clean_environment
from tests.support.prefix_proxy import running_prefix_proxy
from tests.support.soak import FULL, soak_only
from tests.support.user_keys import make_key
from tests.support.waiting import wait_until

OpenPage = Callable[..., Any]
OTHER, THIRD = "accounts/fireworks/models/kimi-k3", "accounts/fireworks/models/sandbox-crlf"

SCREEN = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
# Every page, below the dashboard; {id} is the id of a request.
PATHS = (
    "",
    "activity",
    "requests/{id}",
    "models",
    f"models/one?id={MODEL}",
    "playground",
    "keys",
    "keys/new",
    "holders",
    "routing/one",
    "groups",
    "groups/new",
    "limits",
    "health",
    "bill",
    "integrity",
    "settings",
)
# The pages that `make test` opens: figures with charts.
FEW = ("",)


def text_of(page: Any, selector: str) -> str:
    """Returns the text of an element in one line."""
    return " ".join(page.locator(selector).first.inner_text().split())


def click_through(page: Any, selector: str) -> None:
    """Clicks on a link or a form's button and waits until the page that follows is loaded.

    A click alone may return while the old page is still being replaced. A query then may still get answers from the
    old page, or from the gateway before it has received the form, and Chromium may refuse to reload ("Not attached to
    an active page").
    """
    with page.expect_navigation():
        page.click(selector)


@soak_only("dashboard/test_pages.py::test_pages_without_a_browser_have_what_the_api_has")
def test_the_overview_has_the_figures_of_the_api_and_each_leads_to_its_records(
    dashboard: Pages, open_page: OpenPage
) -> None:
    page = open_page()
    report = dashboard.ask("/api/activity/integrity")
    assert report["balanced"] and not report["missing"]
    shown = text_of(page, "#integrity")
    assert shown.startswith(f"Integrity balanced {report['started']} begun of all time, 0 without a record")
    click_through(page, "#integrity")
    assert page.url.endswith("/integrity")
    page = open_page(dashboard.alice, by_form=True)
    assert page.locator("#integrity").count() == 0
    stats = dashboard.ask("/api/catalog/gateway/all/stats", dashboard.alice)["data"]
    tiles = [" ".join(tile.split()) for tile in page.locator(".tile").all_inner_texts()]
    assert tiles[0].startswith(f"Requests {stats['total_requests']}") and stats["total_requests"] == 4
    assert tiles[1].startswith(f"Without success {stats['failed_requests']}")
    assert f"{stats['prompt_tokens']} in" in tiles[2] and f"{stats['completion_tokens']} out" in tiles[2]
    cost = float(tiles[3].split("$")[1].split()[0])
    assert cost == pytest.approx(stats["total_cost"], rel=0.01)
    click_through(page, ".tile:nth-child(2)")
    assert page.locator("table.rows tbody tr").count() == stats["failed_requests"] == 2
    page.go_back()
    click_through(page, "text=not_found_error")
    assert page.locator("table.rows tbody tr").count() == stats["errors"]["not_found_error"]
    assert page.locator("select[name=error_type]").input_value() == "not_found_error"
    page.goto(f"{dashboard.url}/")
    # A bar leads to the requests of its step, and the chart's table has the same numbers.
    href = page.locator(".chart svg a").last.get_attribute("href")
    page.locator("summary", has_text="Show as table").first.click()
    totals = page.locator(".chart-table").first.locator("tbody tr").all_inner_texts()
    counted = sum(int(cell) for row in totals for cell in re.findall(r"\t(\d+)", row))
    assert counted == 4
    page.goto(f"{dashboard.url}/{href}")
    assert page.locator("input[name=from]").input_value()


def test_pages_without_a_browser_have_what_the_api_has(dashboard: Pages) -> None:
    """Filters, a request by its id, a key without requests or budget, and pages that are not shown to others."""
    cut = dashboard.ask("/api/activity?outcome=upstream_cut,upstream_error", dashboard.alice)["data"][0]
    with dashboard.sign_in() as session:
        alice = dashboard.alice.split("_")[1]
        listed = session.get(f"{dashboard.url}/activity?outcome=ok&key={alice}", timeout=30).text
        assert len(set(re.findall(r'requests/([^"?]+)', listed))) == 2 and "outcome=ok" in listed
        exported = session.get(f"{dashboard.url}/activity.csv?outcome=ok&key={alice}", timeout=30).text
        assert len(exported.splitlines()) == 3 and exported.count(f",{alice},") == 2
        for id in (cut["request_id"], cut["upstream_request_id"]):
            found = session.get(f"{dashboard.url}/activity", params={"request": id}, timeout=30)
            assert cut["error_message"] in html.unescape(found.text) and "/requests/" in found.url
    with dashboard.sign_in(dashboard.bob) as session:
        for path in (f"requests/{cut['request_id']}", f"activity?key={alice}", f"activity.csv?key={alice}"):
            assert session.get(f"{dashboard.url}/{path}", timeout=30).status_code == 404, path
    made = requests.post(
        f"{dashboard.gateway.url}/api/keys",
        json={"name": "gina", "budgets": ["1-requests/total"]},
        headers=dashboard.gateway.headers,
        timeout=30,
    ).json()
    with dashboard.sign_in(made["key"]) as session:
        assert 'id="first-call"' in session.get(f"{dashboard.url}/", timeout=30).text
        assert [post_chat(dashboard.gateway, MODEL, key=made["key"]).status for _ in range(2)] == [200, 402]
        for path in ("", "activity", "models", "keys", "playground"):
            assert session.get(f"{dashboard.url}/{path}", timeout=30).status_code == 200


@soak_only("dashboard/test_pages.py::test_pages_without_a_browser_have_what_the_api_has")
def test_filters_stay_through_pages_export_and_a_single_request(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page()
    page.goto(f"{dashboard.url}/activity?outcome=ok&key={dashboard.alice.split('_')[1]}")
    rows = page.locator("table.rows tbody tr")
    assert rows.count() == 2
    with page.expect_download() as download:
        page.click("text=Export these as CSV")
    lines = download.value.path().read_text().splitlines()
    assert len(lines) == 3 and all(dashboard.alice.split("_")[1] in line for line in lines[1:])
    click_through(page, "table.rows tbody a >> nth=0")
    assert "outcome=ok" in page.url
    newest = page.url
    click_through(page, "text=Older")
    assert page.url != newest and page.locator("text=Older").count() == 0  # Without the filter there would be more.
    click_through(page, "text=Newer")
    assert page.url == newest
    click_through(page, "text=Back to the list")
    assert rows.count() == 2
    page.select_option("select[name=gateway]", "fireworks")  # Takes effect at once, and the other filters stay.
    page.wait_for_url("**gateway=fireworks**")
    assert rows.count() == 2 and page.locator("select[name=outcome]").input_value() == "ok"


@soak_only("dashboard/test_pages.py::test_pages_without_a_browser_have_what_the_api_has")
def test_a_list_is_whole_and_a_page_is_one_answer(dashboard: Pages, open_page: OpenPage) -> None:
    key = make_key(dashboard.database_url, "dora")
    now = datetime.now(UTC)
    rows = [
        make_row(started_at=now - timedelta(minutes=7 * number), key_id=key.split("_")[1], outcome=outcome)
        for number in range(60)
        for outcome in ("ok", "upstream_error")
    ]
    engine = create_engine(dashboard.database_url, poolclass=NullPool)
    with engine.begin() as connection:
        insert_partitions(connection, sorted({row["started_at"].date() for row in rows}))
    insert_rows(engine, rows)
    page = open_page(key)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{dashboard.url}/?time_range=24h")
    assert len(asked) <= 4, asked  # The page, the style sheet, the script, the icon.
    total = dashboard.ask("/api/catalog/gateway/all/stats", key)["data"]["total_requests"]
    assert text_of(page, ".tile").startswith(f"Requests {total}") and total == 120
    page.goto(f"{dashboard.url}/activity?outcome=ok")
    seen: list[str] = []
    while True:
        seen += page.locator("table.rows tbody a").evaluate_all("links => links.map((link) => link.href)")
        if not page.locator("a[rel=next]").count():
            break
        click_through(page, "a[rel=next]")
        assert page.locator("select[name=outcome]").input_value() == "ok"
    assert len(seen) == len(set(seen)) == 60


@soak_only("dashboard/test_pages.py::test_pages_without_a_browser_have_what_the_api_has")
def test_who_has_made_no_request_sees_how_to_make_one(dashboard: Pages, open_page: OpenPage) -> None:
    key = make_key(dashboard.database_url, "erin")
    page = open_page(key)
    command = page.locator("#first-call").inner_text()
    assert "No request" in text_of(page, ".first")
    environment = clean_environment() | {"GATEWAY_API_KEY": key, "NO_PROXY": "*"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["choices"], done.stderr
    wait_until(lambda: dashboard.ask("/api/activity", key)["data"], what="the record")
    page.reload()
    assert text_of(page, ".tile").startswith("Requests 1") and page.locator(".first").count() == 0


@soak_only("dashboard/test_pages.py::test_pages_without_a_browser_have_what_the_api_has")
def test_a_key_without_budget_left_still_sees_its_pages(dashboard: Pages, open_page: OpenPage) -> None:
    made = requests.post(
        f"{dashboard.gateway.url}/api/keys",
        json={"name": "frank", "budgets": ["1-requests/total"]},
        headers=dashboard.gateway.headers,
        timeout=30,
    ).json()
    statuses = [post_chat(dashboard.gateway, MODEL, key=made["key"]).status for _ in range(2)]
    assert statuses == [200, 402]
    page = open_page(made["key"])
    for path in ("", "activity", "models", "keys", "playground"):
        assert page.goto(f"{dashboard.url}/{path}").status == 200
    page.fill("[name=message]", "Hello!")
    page.click("#send")
    assert "budget" in text_of(page, ".turn.error")


@soak_only("dashboard/test_pages.py::test_pages_without_a_browser_have_what_the_api_has")
def test_a_request_is_found_by_any_id_and_says_what_went_wrong(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page()
    cut = dashboard.ask("/api/activity?outcome=upstream_cut,upstream_error", dashboard.alice)["data"][0]
    for id in (cut["request_id"], cut["upstream_request_id"]):
        page.goto(f"{dashboard.url}/activity")
        page.fill("[name=request]", id)
        page.keyboard.press("Enter")
        page.wait_for_url("**/requests/**")
        assert cut["error_message"] in text_of(page, ".notice.bad") and cut["request_id"] in text_of(page, "main")
    assert f"status {cut['status']}" in text_of(page, ".spans") and "first token" in text_of(page, ".spans")


@soak_only("dashboard/test_pages.py::test_pages_without_a_browser_have_what_the_api_has")
def test_a_holder_sees_nothing_of_others(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page(dashboard.bob)
    assert text_of(page, ".tile").startswith("Requests 1")
    page.goto(f"{dashboard.url}/activity")
    assert page.locator("table.rows tbody tr").count() == 1
    others = dashboard.ask("/api/activity", dashboard.alice)["data"][0]["request_id"]
    alice = dashboard.alice.split("_")[1]
    for path in (f"requests/{others}", f"activity?key={alice}", f"?key={alice}", f"activity.csv?key={alice}"):
        assert page.request.get(f"{dashboard.url}/{path}").status == 404, path


@soak_only("dashboard/test_pages.py::test_pages_without_a_browser_have_what_the_api_has")
def test_a_hostile_name_of_a_model_is_text(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page(dashboard.alice)
    for path in ("", "activity", "activity?outcome=rejected"):
        page.goto(f"{dashboard.url}/{path}")
        assert HOSTILE in page.locator("main").inner_text()
        assert page.locator("img").count() == 0 and page.title() != "owned"


@soak_only("dashboard/test_pages.py::test_pages_refresh_themselves_and_obey_the_keyboard")
@pytest.mark.parametrize(
    ("zone", "offset_h"), [("Pacific/Marquesas", -9.5), ("Etc/UTC", 0), ("Pacific/Kiritimati", 14)]
)
def test_times_are_local_and_days_are_those_of_utc(
    dashboard: Pages, open_page: OpenPage, zone: str, offset_h: float
) -> None:
    page = open_page(timezone_id=zone)
    page.goto(f"{dashboard.url}/activity")
    time = page.locator("table.rows time").first
    utc = datetime.fromisoformat(time.get_attribute("datetime").replace("Z", "+00:00"))
    local = utc + timedelta(hours=offset_h)
    assert f"{local.day} {local:%b %Y}, {local:%H:%M:%S}" == time.inner_text()
    assert time.get_attribute("title") == f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    assert zone.rpartition("/")[2] in text_of(page, "#zone")
    assert (text_of(page, "#zone") == "Times are in UTC.") == (zone == "Etc/UTC")
    page.goto(f"{dashboard.url}/?time_range=30d")
    assert page.locator(".chart .x").first.inner_text().split("\n")[-1] == f"{utc:%b %d}"


@soak_only("dashboard/test_pages.py::test_axe_finds_nothing_and_pages_fit")
def test_on_a_phone_the_navigation_shows_where_one_is_and_that_it_scrolls(
    dashboard: Pages, open_page: OpenPage
) -> None:
    page = open_page(viewport=PHONE)
    assert page.locator(".side nav.more-after:not(.more-before)").count() == 1
    page.goto(f"{dashboard.url}/settings")
    page.locator(".side nav.more-before").wait_for()
    current = page.locator(".side nav a[aria-current]").bounding_box()
    assert current["x"] >= 0 and current["x"] + current["width"] <= PHONE["width"]
    page.goto(f"{dashboard.url}/nowhere")
    assert page.locator(".side").bounding_box()["height"] < 120
    page.goto(f"{dashboard.url}/models/one?id={MODEL}")
    box = page.locator(".has-copy").first
    button = box.locator("button").bounding_box()
    lines = box.locator("pre").evaluate("""(pre) => {
        const range = document.createRange();
        range.selectNodeContents(pre);
        return range.getBoundingClientRect().top;
    }""")
    assert button["y"] + button["height"] <= lines


@soak_only("dashboard/test_pages.py::test_axe_finds_nothing_and_pages_fit")
def test_long_names_of_models_and_three_answers_fit_a_screen(dashboard: Pages, open_page: OpenPage) -> None:
    day = datetime.now(UTC).date()
    model = "a-very-long-name-of-a-model-" * 9
    engine = create_engine(dashboard.database_url, poolclass=NullPool)
    with engine.begin() as connection:
        insert_partitions(connection, [day])
    served = {"gateway": "featherless", "model_requested": model, "model_served": model}
    insert_rows(engine, [make_row(key_id="fits", started_at=datetime.now(UTC), **served)])
    engine.dispose()
    page = open_page(viewport=SCREEN)
    page.goto(f"{dashboard.url}/activity?gateway=featherless")
    assert page.locator(".clamp").first.bounding_box()["height"] < 50
    width, room = page.locator(".scroll:has(table.rows)").evaluate("(box) => [box.scrollWidth, box.clientWidth]")
    assert width == room
    page.goto(f"{dashboard.url}/playground?api=/v1/messages&model={MODEL},{OTHER},{THIRD}&message=Hi")
    assert page.locator("[name=max_tokens]").get_attribute("placeholder") == "1000"
    page.select_option("[name=api]", "/v1/chat/completions")
    assert page.locator("[name=max_tokens]").get_attribute("placeholder") == "none"
    page.click("#send")
    page.locator(".answer").nth(2).wait_for()
    tops = page.evaluate("[...document.querySelectorAll('.answer')].map((card) => card.getBoundingClientRect().top)")
    assert len(tops) == 3 and len(set(tops)) == 1
    page.locator("#answers[aria-busy=false]").wait_for()


@pytest.mark.soak
def test_axe_finds_nothing_and_pages_fit(dashboard: Pages, open_page: OpenPage) -> None:
    """On a screen in light colours, and on a phone in dark ones; `make soak` checks every page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    request_id = dashboard.ask("/api/activity?outcome=rejected")["data"][0]["request_id"]
    operator = {"Authorization": f"Bearer {dashboard.gateway.key}"}
    alias = {"name": "axe", "targets": [{"name": MODEL}]}
    made = requests.post(f"{dashboard.gateway.url}/api/aliases", json=alias, headers=operator, timeout=30)
    assert made.ok, made.text
    made = requests.post(f"{dashboard.gateway.url}/api/holders", json={"name": "axe"}, headers=operator, timeout=30)
    assert made.ok, made.text
    own = (f"holders/{made.json()['data']['id']}", "routing/one?name=axe")
    docs = tuple(f"../docs/{page}" for page in ("", "limits", "clients", "search?q=budget", "nowhere"))
    # The policy would block axe, which is a script, and axe would measure colours in the middle of a transition.
    page = open_page(bypass_csp=True, reduced_motion="reduce")
    for path in (*PATHS, *own, *docs, "nowhere", "sign-in") if FULL else FEW:
        page.set_viewport_size(SCREEN)
        page.emulate_media(color_scheme="light")
        page.goto(f"{dashboard.url}/{path.format(id=request_id)}")
        assert page.evaluate("document.documentElement.scrollWidth") <= SCREEN["width"], path
        light = axe.run(page)
        assert light.violations_count == 0, f"{path}: {light.generate_report()}"
        page.set_viewport_size(PHONE)
        page.emulate_media(color_scheme="dark")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        if FULL:  # Checks all rules, otherwise only the one about colours.
            page.reload()
            assert axe.run(page).violations_count == 0, f"{path}, dark on a phone"
        else:
            dark = page.evaluate("axe.run({runOnly: ['color-contrast'], resultTypes: ['violations']})")
            assert dark["violations"] == [], f"{path}, dark on a phone"


@soak_only("dashboard/test_sign_in.py::test_below_any_prefix_and_over_tls_everything_works_without_a_setting")
def test_commands_have_the_prefix_that_a_proxy_takes_off(
    dashboard: Pages, open_page: OpenPage, certificate: tuple[Path, Path]
) -> None:
    with running_prefix_proxy(dashboard.gateway.port, "/team/llm", certificate) as url:
        page = open_page(url=f"{url}/dashboard", ignore_https_errors=True)
        page.goto(f"{url}/dashboard/models/one?id={MODEL}")
        commands = page.locator(".copyable pre").all_inner_texts()
        assert commands and all(f"{url}/v1" in command for command in commands)
        page.goto(f"{url}/dashboard/playground")
        assert f"'{url}/v1/chat/completions'" in page.locator(".copyable pre").first.text_content()


def test_pages_refresh_themselves_and_obey_the_keyboard(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page()
    page.clock.install()
    page.goto(f"{dashboard.url}/activity")
    page.evaluate("document.querySelector('#live').dataset.mark = 'old'")
    with page.expect_response("**/activity"):
        page.clock.run_for(16_000)
    page.wait_for_function("!document.querySelector('#live').dataset.mark")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.locator("tr.chosen").count() == 1
    page.keyboard.press("Enter")
    page.wait_for_url("**/requests/**")
    page.keyboard.press("g")
    page.keyboard.press("m")
    page.wait_for_url("**/models")
    page.keyboard.press("/")
    page.keyboard.type("gt?")  # In a field, keys are letters and no shortcuts.
    assert page.locator("[name=search]").input_value() == "gt?" and page.url.endswith("/models")
    page.locator("h1").click()
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()


@soak_only("dashboard/test_sign_in.py::test_a_post_that_another_site_caused_is_refused")
def test_on_a_name_without_tls_one_can_sign_in_too(dashboard: Pages, open_page: OpenPage) -> None:
    """Browsers send no Sec-Fetch-Site there."""
    page = open_page(url=f"http://gateway.test:{dashboard.gateway.port}/dashboard", by_form=True)
    assert text_of(page, "h1") == "Overview"


@soak_only("dashboard/test_pages.py::test_pages_without_a_browser_have_what_the_api_has")
def test_pages_work_without_script(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page(dashboard.alice, by_form=True, java_script_enabled=False)
    click_through(page, "text=Activity")
    page.select_option("select[name=outcome]", "rejected")
    click_through(page, "button:has-text('Show')")
    assert page.locator("table.rows tbody tr").count() == 1
    assert "UTC" in page.locator("table.rows time").first.inner_text()
    click_through(page, "text=Sign out")
    assert text_of(page, "h1") == "Sign in"
