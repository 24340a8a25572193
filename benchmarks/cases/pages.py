"""The dashboard: how long each page takes with three million records, and how open dashboards slow down streams."""

from __future__ import annotations

import http.client
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlencode

from app.config import load_settings
from app.db import create_engine_for
from app.db.schema import upgrade_schema
from benchmarks.cases.catalog import wait_for_catalog
from benchmarks.cases.chat import run, stream_load, warm_up
from benchmarks.gateways import Gateway, prepare_database
from benchmarks.machine import CannotRun
from benchmarks.peers import MODEL, Peer
from benchmarks.results import Results
from benchmarks.stage import SETTLE_S, Stage
from benchmarks.stats import migrate, write_history
from tests.db.rows import insert_keys

ROWS, QUICK_ROWS = 3_000_000, 300_000
# The number of views of each page; the first one compiles the templates and is not counted.
VIEWS, QUICK_VIEWS = 21, 11
_OPERATOR = "operator-key-of-the-benchmark"

# Page → its path below /dashboard/. {id} is a request's id.
PAGES = {
    "Overview, 24 hours": "",
    "Overview, 30 days": "?time_range=30d",
    "Overview of a key, 7 days": "?time_range=7d&key=key-7",
    "Activity": "activity",
    "Activity, failed": "activity?time_range=30d&outcome=upstream_error,upstream_cut,upstream_timeout",
    "Activity, slower than a minute": "activity?time_range=all&slower_s=60",
    "Activity, status 429 (there is none)": "activity?time_range=all&status=429",
    "a request": "requests/{id}",
    "Models": "models",
    "Models, searched": "models?search=coder",
    "a model": f"models/one?id={MODEL}",
    "Keys, 200 of them": "keys",
    "Groups and limits": "groups",
    "Health": "health",
    "Routing": "routing",
    "Integrity": "integrity",
    "Settings": "settings",
}

# The pages that ten open dashboards refresh, each with its interval in seconds.
OPEN = [("", 30.0)] * 4 + [("activity", 15.0)] * 4 + [("health", 10.0)] * 2
STREAMS, EVENTS_PER_S = 1_000, 20


class _Place(NamedTuple):
    """The gateway with the history, and the cookie of an operator's session."""

    gateway: Gateway
    peer: Peer
    cookie: str
    request_id: str


def measure_pages(stage: Stage, results: Results) -> None:
    """Measures each page by itself, then streams without and with open dashboards."""
    place = _get_place(stage)
    case = f"pages, {_get_rows(stage):,} records"
    for name, path in PAGES.items():
        results.add(case, name, _measure_page(stage, place, path.format(id=place.request_id)))
    load = stream_load(stage, STREAMS, EVENTS_PER_S)
    load = type(load)(**vars(load) | {"seconds": 10.0 if stage.options.quick else 30.0})
    case = f"{STREAMS} streams, {EVENTS_PER_S} events/s each, beside the dashboard"
    results.add(case, "no dashboard open", run(stage, place.peer, load))
    time.sleep(SETTLE_S)
    with _open_dashboards(place) as views:
        measured = run(stage, place.peer, load)
    results.add(case, f"{len(OPEN)} dashboards open", measured)
    failed = sum(status != 200 for status in views)
    results.facts["views of open dashboards"] = f"{len(views)} in the last repeat, {failed} of them failed"
    time.sleep(SETTLE_S)


def _get_rows(stage: Stage) -> int:
    return QUICK_ROWS if stage.options.quick else ROWS


def _get_place(stage: Stage) -> _Place:
    """Returns the gateway with the history; the first call makes it, which takes minutes."""
    found: _Place | None = getattr(stage, "pages", None)
    if found is not None:
        return found
    url = str(load_settings({"DATABASE_URL": stage.server.ensure_database("pages")}).database_url)
    upgrade_schema(url, "0006")
    write_history(url, _get_rows(stage))
    migrate(url)
    engine = create_engine_for(url)
    insert_keys(engine, *[f"key-{number}" for number in range(200)])
    engine.dispose()
    key = prepare_database(stage.tree, url)
    settings = stage.catalog_settings() | stage.settings()
    settings |= {"DATABASE_URL": url, "GATEWAY_API_KEY": _OPERATOR, "RETENTION_DAYS": "365"}
    gateway = stage.start_gateway("pages", settings=settings)
    peer = Peer("gateway", gateway.port, {"Authorization": f"Bearer {key}"}, gateway.child)
    cookie = _sign_in(gateway.port)
    wait_for_catalog(gateway.port)
    warm_up(stage, peer)  # Pages find these requests by their ids; those of the history have no such ids.
    time.sleep(5.0)
    newest = _ask(gateway.port, "/api/activity?limit=1", peer.headers)[1]
    request_id = newest.partition(b'"request_id":"')[2].partition(b'"')[0].decode()
    place = _Place(gateway, peer, cookie, request_id)
    for path in PAGES.values():  # Compiles the templates.
        _view(place, path.format(id=request_id))
    time.sleep(15.0)
    stage.pages = place  # type: ignore[attr-defined]
    return place


def _sign_in(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Origin": f"http://127.0.0.1:{port}", "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/dashboard/sign-in", urlencode({"key": _OPERATOR}), headers)
    response = connection.getresponse()
    cookie = (response.getheader("set-cookie") or "").partition(";")[0]
    connection.close()
    if response.status != 303 or not cookie:
        raise CannotRun(f"Nobody could sign in to the dashboard: {response.status}.")
    return cookie


def _measure_page(stage: Stage, place: _Place, path: str) -> dict[str, float]:
    """Returns the times of consecutive views of a page, and the worker's CPU time for each."""
    times_ms, size = [], 0
    before = place.gateway.get_resource_usage()
    views = QUICK_VIEWS if stage.options.quick else VIEWS
    for _ in range(views):
        began_s = time.perf_counter()
        size = len(_view(place, path))
        times_ms.append((time.perf_counter() - began_s) * 1000)
    cpu_s = place.gateway.get_resource_usage().cpu_s - before.cpu_s
    return {
        "page_p50_ms": statistics.median(times_ms),
        "page_p95_ms": sorted(times_ms)[int(views * 0.95)],
        "page_cpu_ms": cpu_s / views * 1000,
        "page_kb": size / 1000,
    }


def _view(place: _Place, path: str) -> bytes:
    status, content = _ask(place.gateway.port, f"/dashboard/{path}", {"Cookie": place.cookie})
    if status != 200:
        raise CannotRun(f"/dashboard/{path} was answered with {status}.")
    return content


def _ask(port: int, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@contextmanager
def _open_dashboards(place: _Place) -> Iterator[list[int]]:
    """Refreshes pages as open dashboards do during a `with` block; yields the statuses of their views as a list."""
    views: list[int] = []
    stop = threading.Event()

    def refresh(number: int, path: str, every_s: float) -> None:
        pause_s = every_s * (number + 0.5) / len(OPEN)  # The dashboards were not all opened at once.
        while not stop.wait(pause_s):
            views.append(_ask(place.gateway.port, f"/dashboard/{path}", {"Cookie": place.cookie})[0])
            pause_s = every_s

    threads = [threading.Thread(target=refresh, args=(number, *each)) for number, each in enumerate(OPEN)]
    for thread in threads:
        thread.start()
    try:
        yield views
    finally:
        stop.set()
        for thread in threads:
            thread.join()
