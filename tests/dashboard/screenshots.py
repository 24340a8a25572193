"""Takes screenshots of all pages in both colour schemes, wide and on a phone: `make screenshots`.

They are written to var/screenshots for review, and those that documents show to docs/img. This is not a test.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from app.config import ROOT
from app.db.partitions import insert_partitions
from tests.dashboard.history import make_history
from tests.db.rows import insert_rows
from tests.sandbox.client import run_sandbox
from tests.support.catalogs import provider_environment
from tests.support.gateway import Gateway, base_settings, start_gateway
from tests.support.postgres import running_postgres

# Name → path below the root of the gateway. {id} is that of a request with several attempts, {key} that of a key.
PAGES = {
    "overview": "dashboard/",
    "activity": "dashboard/activity",
    "request": "dashboard/requests/{id}",
    "models": "dashboard/models",
    "model": "dashboard/models/one?id=accounts/fireworks/models/deepseek-v3p1",
    "playground": "dashboard/playground?model=accounts/fireworks/models/kimi-k3,accounts/fireworks/models/deepseek-v3p1"
    "&message=Why+is+the+sky+blue%3F",
    "keys": "dashboard/keys",
    "key": "dashboard/keys/{key}",
    "groups": "dashboard/groups",
    "routing": "dashboard/routing?model=zai-org/GLM-5.3-Flash",
    "health": "dashboard/health",
    "integrity": "dashboard/integrity",
    "settings": "dashboard/settings",
    "sign-in": "dashboard/sign-in",
}
# The pages that documents show, each with its colour scheme.
SHOWN = {"overview": "light", "request": "dark", "playground": "light"}
SIZES = {"wide": (1280, 860), "phone": (390, 844)}
OUTPUT, DOCUMENTS = ROOT / "var" / "screenshots", ROOT / "docs" / "img"


def main() -> None:
    """Takes the screenshots named on the command line, by default all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", help=f"some of: {', '.join(PAGES)}")
    parser.add_argument("--serve", action="store_true", help="print an address and wait, to look at it oneself")
    chosen = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with running_demonstration() as gateway:
        if chosen.serve:
            print(gateway.url, gateway.key, gateway.root, flush=True)
            input()
            return
        take_pictures(gateway, {name: PAGES[name] for name in chosen.pages or PAGES})


@contextmanager
def running_demonstration() -> Iterator[Gateway]:
    """A gateway before the sandbox as all four providers, with a day of records, keys, groups and budgets."""
    with (
        tempfile.TemporaryDirectory(prefix="pages-") as directory,
        running_postgres() as server,
        run_sandbox("--pace-ms", "8", "--die-with-parent") as sandbox,
    ):
        url = server.create_migrated_database()
        settings = base_settings(Path(directory), url) | provider_environment(sandbox.url, key="sandbox")
        gateway = start_gateway(settings, root=ROOT, log=OUTPUT.parent / "screenshots.log", workers=2)
        try:
            _fill(gateway, url)
            yield gateway
        finally:
            gateway.stop()


def _fill(gateway: Gateway, url: str) -> None:
    def post(path: str, body: dict[str, Any]) -> Any:
        made = requests.post(gateway.url + path, json=body, headers=gateway.headers, timeout=30)
        made.raise_for_status()
        return made.json()

    post("/api/groups", {"name": "research", "budgets": ["400/month"]})
    keys = [
        post("/api/keys", {"name": "ada", "group": "research", "budgets": ["20/month", "2M tokens/day"]}),
        post("/api/keys", {"name": "grace", "group": "research", "requests_per_minute": 60}),
        post("/api/keys", {"name": "nightly-report", "budgets": ["1/day"]}),
    ]
    flash = ["deepinfra/zai-org/GLM-5.3-Flash", "fireworks/glm-5p3-flash", "chutes/zai-org/GLM-5.3-Flash-TEE"]
    post("/api/aliases", {"name": "flash", "targets": flash, "sort": "price"})
    shared = [{"name": "fireworks/kimi-k3", "weight": 1}, {"name": "deepinfra/moonshotai/Kimi-K2.6", "weight": 3}]
    post("/api/aliases", {"name": "team/kimi", "targets": shared, "overrides": {"temperature": 0.6}})
    now = datetime.now(UTC)
    rows = list(make_history(now, [made["data"]["id"] for made in keys]))
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        insert_partitions(connection, sorted({row["started_at"].date() for row in rows}))
    insert_rows(engine, rows)


def take_pictures(gateway: Gateway, pages: dict[str, str]) -> None:
    """Writes a screenshot of each page, colour scheme and size."""
    from playwright.sync_api import sync_playwright

    records = requests.get(f"{gateway.url}/api/activity?limit=1000", headers=gateway.headers, timeout=30).json()["data"]
    shown = next(record for record in records if record["attempts"])
    key = requests.get(f"{gateway.url}/api/keys", headers=gateway.headers, timeout=30).json()["data"][-1]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    DOCUMENTS.mkdir(exist_ok=True)
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for size, (width, height) in SIZES.items():
                context = browser.new_context(
                    viewport={"width": width, "height": height}, color_scheme=scheme, locale="en-GB"
                )
                page = context.new_page()
                page.goto(f"{gateway.url}/dashboard/sign-in")
                page.fill("[name=key]", gateway.key)
                page.click("button.main")
                for name, path in pages.items():
                    page.goto(f"{gateway.url}/{path.format(id=shown['request_id'], key=key['id'])}")
                    if name == "playground":
                        page.click("#send")
                        page.locator("#answers[aria-busy=true]").wait_for()
                        page.locator("#answers[aria-busy=false]").wait_for()
                    page.screenshot(path=OUTPUT / f"{name}-{scheme}-{size}.png", full_page=True)
                    if size == "wide" and SHOWN.get(name) == scheme:
                        page.screenshot(path=DOCUMENTS / f"{name}.png")
                context.close()
        browser.close()


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "*")
    main()
