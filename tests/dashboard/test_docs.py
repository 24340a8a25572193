"""The documentation and Swagger UI in a real browser: no violation of the policy, no request to another server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.dashboard.conftest import Pages
from tests.support.soak import soak_only

OpenPage = Callable[..., Any]


@soak_only("docs_site/test_site.py::test_the_search_finds_words_in_all_pages")
def test_a_reader_finds_a_page_and_copies_a_command(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page("", viewport={"width": 1280, "height": 900})
    page.goto(f"{dashboard.gateway.url}/docs/")
    page.keyboard.press("/")
    page.keyboard.type("revoked key", delay=5)
    page.locator(".hits a").first.wait_for()
    page.wait_for_url("**/docs/search?q=revoked+key")
    page.locator(".hits a", has_text="Keys").first.click()
    assert page.url.startswith(f"{dashboard.gateway.url}/docs/") and "#" in page.url
    page.goto(f"{dashboard.gateway.url}/docs/clients")
    page.locator(".copyable").first.hover()
    assert page.locator(".copyable button").first.is_visible()
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    plain = open_page("", java_script_enabled=False)
    plain.goto(f"{dashboard.gateway.url}/docs/")
    plain.fill("[name=q]", "BUDGET_OUTAGE")
    plain.press("[name=q]", "Enter")
    assert plain.locator(".hits mark").first.inner_text() == "BUDGET_OUTAGE"


@soak_only("docs_site/test_site.py::test_swagger_ui_is_served_from_here")
def test_swagger_ui_sends_a_request_and_follows_the_colour_scheme(dashboard: Pages, open_page: OpenPage) -> None:
    page = open_page("", color_scheme="light")
    page.set_default_timeout(120_000)  # Swagger UI is 1.7 MB of script, which takes long on a busy machine.
    page.goto(f"{dashboard.gateway.url}/docs/api")
    page.locator("#operations-The_gateway_itself-is_alive .opblock-summary-control").click()
    page.locator("#operations-The_gateway_itself-is_alive button.execute").click()
    page.locator(".live-responses-table .response-col_status", has_text="200").wait_for()
    assert page.locator(".request-url pre").inner_text() == f"{dashboard.gateway.url}/health"
    # Its second <main> has another role now, and its list of servers has a label.
    roles = page.evaluate("[...document.querySelectorAll('main')].map((each) => each.getAttribute('role'))")
    assert roles == [None, "region"] and page.get_by_label("Server", exact=True).count() == 1
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.locator("html.dark-mode" if scheme == "dark" else "html:not(.dark-mode)").wait_for()
