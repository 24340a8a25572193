"""An export has every record and takes constant memory, whatever its size; a cut one does not look complete."""

from __future__ import annotations

import csv
import io
import json
import socket
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from app.db import create_engine_for
from app.services.reports.csv_export import COLUMNS
from tests.db.history import insert_history
from tests.db.rows import insert_rows, make_row
from tests.support.chat import PATIENCE_S, read_until, request
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.postgres import Postgres
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

ROWS = 15_000
# Names that a spreadsheet would misinterpret, in records on a separate day.
NAMES = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "a,b", 'say "hi"', "two\nlines", "plain"]
EARLIER = datetime(2026, 1, 10, 12, tzinfo=UTC)
# An export held in memory would take 4 MB of text and 30 MB of rows. A worker's memory varies by a few.
MOST_GROWTH_BYTES = 15 << 20


@pytest.fixture(scope="module")
def large(tree: Any, victim_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one worker and ROWS records, on a database server that may be killed."""
    engine = create_engine_for(victim_url)
    assert sum(insert_history(engine, rows=ROWS, last=date(2026, 3, 14), days=5)) == ROWS
    times = [EARLIER - timedelta(seconds=number) for number in range(len(NAMES) + 1)]
    texts = [make_row(started_at=at, model_served=name) for at, name in zip(times, NAMES, strict=False)]
    bare = make_row(started_at=times[-1], cost_kind="unknown", cost_usd=None, stream=False, cost_source=None)
    insert_rows(engine, [*texts, bare])
    with engine.begin() as connection:
        # An export reads no sums, and folding this many minutes would take the server four seconds.
        connection.execute(text("TRUNCATE rollup_delta"))
    engine.dispose()
    place = tmp_path_factory.mktemp("export")
    with running_gateway(tree, place, base_settings(place, victim_url)) as gateway:
        yield gateway


@soak_only("routes/test_activity_export.py::test_an_export_that_is_read_slowly_holds_no_connection_to_the_database")
def test_many_records_are_exported_in_constant_memory(large: Gateway) -> None:
    worker = psutil.Process(large.worker_pids()[0])
    assert len(_export(large, "&from=2026-03-14T23:00")) > 100  # Loads everything that is loaded at first use.
    before = worker.memory_info().rss
    rows = _export(large)
    assert len(rows) == ROWS + len(NAMES) + 1 == len({row["request_id"] for row in rows})
    times = [row["started_at"] for row in rows]
    assert times == sorted(times, reverse=True)
    assert worker.memory_info().rss - before < MOST_GROWTH_BYTES


def test_a_client_that_leaves_ends_its_export(large: Gateway) -> None:
    worker = psutil.Process(large.worker_pids()[0])
    with _reading(large) as connection:
        read_until(connection, b"request_id")
    # A continuing export would use CPU time.
    wait_until(lambda: worker.cpu_percent(interval=0.5) < 25, what="the worker to be idle")
    assert len(_export(large, "&from=2026-03-14T23:00")) > 100


def test_an_export_that_is_read_slowly_holds_no_connection_to_the_database(large: Gateway, victim: Postgres) -> None:
    with _reading(large) as connection:
        read_until(connection, b"request_id")
        in_use = "SELECT count(*) FROM pg_stat_activity WHERE state ~ 'transaction' AND query ~ 'FROM activity'"
        wait_until(lambda: victim.execute(in_use)[0][0] == 0, what="no transaction to be open")


@soak_only("routes/test_activity_export.py::test_an_export_that_is_read_slowly_holds_no_connection_to_the_database")
def test_an_export_that_loses_its_database_is_cut_and_does_not_look_complete(large: Gateway, victim: Postgres) -> None:
    with _reading(large) as connection:
        received = read_until(connection, b"request_id")
        victim.kill()
        try:
            while piece := connection.recv(1 << 20):
                received += piece
        except ConnectionResetError:
            pass
        finally:
            victim.start()
    assert received.startswith(b"HTTP/1.1 200 ") and not received.endswith(b"\r\n0\r\n\r\n")
    assert "Traceback" not in large.log() and "export_cut" in large.log()
    assert len(_export(large)) == ROWS + len(NAMES) + 1


def test_text_from_callers_cannot_become_a_formula(large: Gateway) -> None:
    rows = _export(large, f"&from={EARLIER:%Y-%m-%d}&to={EARLIER + timedelta(days=1):%Y-%m-%d}")
    assert [row["model_served"] for row in rows[:5]] == ["'" + name for name in NAMES[:5]]
    assert [row["model_served"] for row in rows[5:9]] == NAMES[5:]
    assert json.loads(rows[0]["attempts"]) == make_row()["attempts"]
    assert (rows[0]["cost_usd"], rows[0]["stream"]) == ("0.000123456789012", "true")
    assert (rows[9]["cost_usd"], rows[9]["stream"], rows[9]["reasoning_tokens"]) == ("", "false", "")


def test_an_export_without_records_has_the_header_line(large: Gateway) -> None:
    seen = request("GET", f"{large.url}/api/activity?format=csv&from=2001-01-01&to=2001-01-02", headers=large.headers)
    assert seen.body.decode() == ",".join(COLUMNS) + "\r\n"
    assert seen.headers["content-type"].startswith("text/csv; charset=utf-8")
    assert seen.headers["content-disposition"] == 'attachment; filename="activity.csv"'


@pytest.mark.parametrize(
    ("accept", "query", "form"),
    [
        ("text/csv", "", "text/csv"),
        ("text/csv", "&format=json", "application/json"),
        ("*/*", "", "application/json"),
        ("*/*", "&format=csv", "text/csv"),
        ("application/json, text/csv;q=0.5", "", "application/json"),
        ("text/html", "", "application/json"),
    ],
)
def test_the_format_parameter_wins_over_the_accept_header(large: Gateway, accept: str, query: str, form: str) -> None:
    url = f"{large.url}/api/activity?from=2001-01-01&to=2001-01-02{query}"
    seen = request("GET", url, headers=large.headers | {"Accept": accept})
    assert seen.headers["content-type"].partition(";")[0] == form
    assert seen.headers["vary"] == "accept"


def _export(gateway: Gateway, query: str = "") -> list[dict[str, str]]:
    seen = request("GET", f"{gateway.url}/api/activity?format=csv{query}", headers=gateway.headers)
    assert (seen.status, seen.cut) == (200, False), seen.body[:500]
    return list(csv.DictReader(io.StringIO(seen.body.decode(), newline="")))


def _reading(gateway: Gateway) -> socket.socket:
    """Requests an export over a socket with a small receive buffer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    connection.settimeout(PATIENCE_S)
    connection.connect(("127.0.0.1", gateway.port))
    head = f"GET /api/activity?format=csv HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {gateway.key}\r\n\r\n"
    connection.sendall(head.encode())
    return connection
