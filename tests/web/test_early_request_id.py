"""A line that is logged before the response exists has the same request id as the response."""

from __future__ import annotations

import json

import pytest

from app import create_app
from app.config import load_settings
from app.runtime import use_settings


def test_a_bug_in_a_route_is_one_traceback_and_one_request_line_with_the_id(capfd: pytest.CaptureFixture[str]) -> None:
    app = create_app(load_settings({}))
    app.add_url_rule("/broken", view_func=lambda: 1 / 0)
    try:
        response = app.test_client().get("/broken")
    finally:
        use_settings(None)
    assert response.status_code == 500
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["request_failed", "request"]
    assert {line["request_id"] for line in lines} == {response.headers["x-request-id"]}
    assert [line["level"] for line in lines] == ["error", "error"] and "ZeroDivisionError" in lines[0]["traceback"]


def test_a_database_that_is_away_is_logged_with_the_id(capfd: pytest.CaptureFixture[str]) -> None:
    app = create_app(load_settings({"DATABASE_URL": "postgresql://nobody@/nothing?host=/nowhere", "PUBLIC_STATS": "1"}))
    try:
        response = app.test_client().get("/api/catalog/gateway/all/stats")
    finally:
        use_settings(None)
    assert response.status_code == 503
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["database_access_failed", "request"]
    assert {line["level"] for line in lines} == {"warning"}, "it is not the gateway that fails"
    assert {line["request_id"] for line in lines} == {response.headers["x-request-id"]}
