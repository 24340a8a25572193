"""Programs in browsers: the preflight, and the headers without which a browser hides a response from the program."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import create_app
from app.config import load_settings
from app.runtime import use_settings
from tests.support.answers import sse_stream, whole_stream
from tests.support.chat import PREFIX, Seen, chat_body, request
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream

ORIGIN = "https://chat.example"
# Chrome's preflight headers for a request of OpenAI's SDK.
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os,x-stainless-retry-count",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Site": "cross-site",
}


def exposed(seen: Seen) -> set[str]:
    """Returns the headers that a program in a browser may read, apart from those that it always may."""
    return set(seen.headers["access-control-expose-headers"].split(", "))


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/models", "/api/catalog/models", "/api/activity", "/v1/unknown"]
)
def test_a_preflight_needs_no_key(scripted_gateway: Gateway, path: str) -> None:
    seen = request("OPTIONS", scripted_gateway.url + path, headers=PREFLIGHT)
    assert (seen.status, seen.body) == (204, b"")
    assert seen.headers["access-control-allow-origin"] == "*"
    assert seen.headers["access-control-allow-methods"] == "GET, POST, PATCH, DELETE"
    assert seen.headers["access-control-allow-headers"] == PREFLIGHT["Access-Control-Request-Headers"]
    assert int(seen.headers["access-control-max-age"]) > 0
    assert not {"content-type", "access-control-allow-credentials"} & seen.headers.keys()


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/nowhere"])
def test_other_paths_are_not_for_browsers(scripted_gateway: Gateway, path: str) -> None:
    asked = request("OPTIONS", scripted_gateway.url + path, headers=PREFLIGHT)
    seen = request("GET", scripted_gateway.url + path, headers={"Origin": ORIGIN})
    for headers in (asked.headers, seen.headers):
        assert not any(name.startswith("access-control-") for name in headers)


def test_options_without_a_preflight_still_needs_a_key(scripted_gateway: Gateway) -> None:
    seen = request("OPTIONS", scripted_gateway.url + "/v1/models", headers={"Origin": ORIGIN})
    assert seen.status == 401


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_can_be_read_with_its_headers(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, stream: bool
) -> None:
    upstream.default = sse_stream(whole_stream("Hello")) if stream else upstream.default
    seen = request(
        "POST",
        f"{scripted_gateway.url}/v1/chat/completions",
        headers=scripted_gateway.headers | {"Origin": ORIGIN},
        json=chat_body(f"{PREFIX}scripted", stream=stream, store=True),
    )
    assert (seen.status, seen.headers["access-control-allow-origin"]) == (200, "*")
    assert {"x-request-id", "x-gateway-provider", "x-gateway-model", "x-gateway-dropped-params"} <= exposed(seen)
    assert "server-timing" in exposed(seen)


ERRORS = [
    ("POST", "/v1/chat/completions", False, 401),
    ("POST", "/v1/chat/completions", True, 400),
    ("GET", "/v1/chat/completions", True, 405),
    ("GET", "/v1/nothing", True, 404),
    ("GET", "/api/catalog/models?limit=x", True, 400),
]


@pytest.mark.parametrize(("method", "path", "has_key", "status"), ERRORS)
def test_an_error_can_be_read(scripted_gateway: Gateway, method: str, path: str, has_key: bool, status: int) -> None:
    headers = {"Origin": ORIGIN} | (scripted_gateway.headers if has_key else {})
    seen = request(method, scripted_gateway.url + path, headers=headers)
    assert (seen.status, seen.headers["access-control-allow-origin"]) == (status, "*")
    assert "x-request-id" in exposed(seen) and seen.error


def test_a_client_that_is_no_browser_gets_none_of_this(scripted_gateway: Gateway) -> None:
    seen = request("GET", scripted_gateway.url + "/v1/models", headers=scripted_gateway.headers)
    assert seen.status == 200 and not any(name.startswith("access-control-") for name in seen.headers)


@pytest.mark.parametrize("origin", [ORIGIN, "tauri://localhost", "https://chat.example:8443", "https://evil.example"])
@pytest.mark.parametrize("listed", [[ORIGIN, "tauri://localhost"], []], ids=["list", "none"])
def test_a_list_of_origins_lets_only_these_read(listed: list[str], origin: str, tmp_path: Path) -> None:
    settings = {"CORS_ORIGINS": ", ".join(listed) or "none", "JOURNAL_DIR": str(tmp_path)}
    client = create_app(load_settings(settings)).test_client()
    asked = client.options("/v1/models", headers=PREFLIGHT | {"Origin": origin})
    seen = client.get("/v1/nothing", headers={"Origin": origin})
    assert (asked.status_code, seen.status_code) == (204, 404)
    for response in (asked, seen):
        assert response.headers.get("access-control-allow-origin") == (origin if origin in listed else None)
        assert response.headers["vary"] == "origin"
    assert ("access-control-allow-methods" in asked.headers) == (origin in listed)
    # A cache must not give this response, which has no CORS headers, to a browser either.
    assert client.get("/v1/nothing").headers["vary"] == "origin"
    use_settings(None)
