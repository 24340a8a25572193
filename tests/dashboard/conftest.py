"""Fixtures shared by the tests of pages: a gateway with records of two keys, and one browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.chat import post_chat
from tests.support.database_proxy import DatabaseProxy, running_database_proxy
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.postgres import Postgres
from tests.support.sandbox import Sandbox
from tests.support.soak import FULL
from tests.support.user_keys import make_key
from tests.support.waiting import wait_until

# With two workers, pages must also show facts that only the other worker knows.
WORKERS = 2 if FULL else 1
CHROMIUM = Path("/usr/bin/chromium")
MODEL = "accounts/fireworks/models/deepseek-v3p1"
# With these features, Chromium draws parts of its own window as pages and keeps a spare process for the next tab, which
# takes half of its time. The list replaces Playwright's, so it repeats those of its names that matter here.
_WITHOUT_FEATURES = (
    "SpareRendererForSitePerProcess",
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "AimEnabled",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "MediaRouter",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
)
# Callers choose model names, so a hostile one can appear on pages.
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@dataclass(frozen=True)
class Pages:
    """A gateway with records.

    Attributes:
        gateway: with WORKERS workers.
        database: a proxy to its database, which tests may cut.
        database_url: the database itself.
        alice, bob: gateway keys; alice has made some requests, one of which failed, and bob one.
    """

    gateway: Gateway
    database: DatabaseProxy
    database_url: str
    alice: str
    bob: str

    @property
    def url(self) -> str:
        """The address of the dashboard."""
        return f"{self.gateway.url}/dashboard"

    def ask(self, path: str, key: str | None = None) -> Any:
        """Returns the JSON that the API returns for a key, by default the operator's."""
        headers = {"Authorization": f"Bearer {key or self.gateway.key}"}
        return requests.get(self.gateway.url + path, headers=headers, timeout=30).json()

    def sign_in(self, key: str | None = None) -> requests.Session:
        """Returns a client that is signed in, without a browser."""
        session = requests.Session()
        session.trust_env = False
        session.headers["Origin"] = self.gateway.url
        shown = session.post(f"{self.url}/sign-in", data={"key": key or self.gateway.key}, timeout=30)
        assert shown.status_code == 200 and shown.url == f"{self.url}/", shown.text
        return session


@pytest.fixture(scope="session")
def dashboard(gateways: Gateways, postgres: Postgres, migrated_template: str, sandbox: Sandbox) -> Iterator[Pages]:
    """The gateway that all tests of pages share."""
    url = postgres.create_database(template=migrated_template)
    alice, bob = make_key(url, "alice"), make_key(url, "bob")
    with running_database_proxy(url) as database:
        settings = sandbox.settings | {"TRUSTED_PROXIES": "127.0.0.1"}
        with gateways.running(database.url, settings, workers=WORKERS) as gateway:
            found = Pages(gateway, database, url, alice, bob)
            for key, model, stream in (
                (alice, MODEL, True),
                (alice, MODEL, False),
                (alice, HOSTILE, False),
                (alice, "sandbox-cut-after-3", True),
                (bob, MODEL, False),
            ):
                post_chat(gateway, model, key=key, stream=stream)
            wait_until(lambda: len(found.ask("/api/activity")["data"]) == 5, what="the records")
            yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The one browser of a test run."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make check does it)")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing; on Debian and Ubuntu: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # A foreign host name, because browsers treat localhost as if it were https.
        rules = "--host-resolver-rules=MAP gateway.test 127.0.0.1"
        without = f"--disable-features={','.join(_WITHOUT_FEATURES)}"
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", rules, without])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any, dashboard: Pages) -> Iterator[Callable[..., Any]]:
    """A function `(key=None, url=None, by_form=False, **context)` that opens the overview in a new browser context.

    The page is signed in, unless the key is "". The sign-in request is sent directly, or with `by_form` by the form.
    At the end, no page may have written to the console or have sent a request to another server. Only the browser's own
    messages about responses for a mistake in a form or a missing database are allowed.
    """
    contexts, messages, asked = [], [], []

    def open_one(key: str | None = None, url: str | None = None, by_form: bool = False, **options: Any) -> Any:
        base = url or dashboard.url
        context = browser.new_context(**{"locale": "en-GB", "timezone_id": "UTC"} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append((message.text, message.location.get("url", ""))))
        page.on("pageerror", lambda error: messages.append((str(error), "")))
        page.on("request", lambda request: asked.append((request.url, base)))
        if key == "":
            return page
        key = key or dashboard.gateway.key
        if by_form:
            page.goto(f"{base}/sign-in")
            page.fill("[name=key]", key)
            page.click("button.main")
            page.wait_for_url(f"{base}/")
        else:
            origin = base.removesuffix("/dashboard")
            context.request.post(f"{base}/sign-in", form={"key": key}, headers={"Origin": origin}, max_redirects=0)
            page.goto(f"{base}/")
            assert page.url == f"{base}/"
        return page

    yield open_one
    for context in contexts:
        context.close()
    # The browser also reports expected errors and the missing end of a failed stream; the page says why.
    expected = re.compile(r"status of (400|402|409|503)|ERR_INCOMPLETE_CHUNKED_ENCODING")
    assert [text for text, url in messages if not url.endswith("/nowhere") and not expected.search(text)] == []
    origins = [(url, base.removesuffix("/dashboard")) for url, base in asked if not url.startswith(("data:", "blob:"))]
    assert [url for url, origin in origins if not url.startswith(origin + "/")] == []
