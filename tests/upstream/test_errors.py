"""Error responses: classified by status alone, read in every known shape, and shown without secrets."""

from __future__ import annotations

import json
from email.utils import formatdate
from time import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from app.errors import UpstreamError
from app.logs import hide_secrets
from app.upstream.error_body import parse_error_body
from app.upstream.errors import get_retry_after_s, make_response_error
from tests.support.soak import examples

SAID = "Something specific is wrong"
HTML = b"<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"

# The seven shapes of Fireworks' error bodies, each with the message SAID if it has one.
SHAPES: dict[str, tuple[Any, bool]] = {
    "front gateway": (
        {"error": {"message": SAID, "param": None, "code": "X", "type": "error"}, "request_id": "r"},
        True,
    ),
    "model server": ({"error": {"object": "error", "type": "invalid_request_error", "message": SAID}}, True),
    "anthropic": ({"type": "error", "error": {"type": "api_error", "message": SAID}, "request_id": "r"}, True),
    "fastapi": ({"detail": [{"loc": ["body", "top_k"], "msg": SAID, "type": "value_error"}]}, True),
    "bare string": ({"error": SAID}, True),
    "audio": ({"error": "Wrong", "message": SAID}, True),
    "older edge": ({"fault": {"faultstring": SAID, "detail": {"errorcode": "x"}}}, True),
    "control plane": ({"code": 5, "message": SAID, "details": []}, True),
    "workflows": ({"error_message": SAID}, True),
    "deepinfra": ({"detail": {"error": SAID}}, True),
    "deepinfra nested": ({"detail": {"error": {"message": SAID}}}, True),
    "detail string": ({"detail": SAID}, True),
    "html": (HTML, False),
    "plain text": (b"upstream connect error or disconnect/reset before headers", False),
    "empty": (b"", False),
    "list": ([SAID], False),
    "deep": (b"[" * 50_000, False),
    "not utf-8": (b'{"error": "\xff ' + SAID.encode() + b'"}', True),
    "lone surrogate": (b'{"error": {"message": "' + SAID.encode() + b' \\ud83d", "code": NaN}}', True),
}

# Status → the error: status, type, code, whether the gateway retries, x-should-retry, whether there is a retry-after.
TABLE: dict[int, tuple[int, str, str | None, bool, bool | None, bool]] = {
    302: (502, "upstream_error", None, False, False, False),
    400: (400, "invalid_request_error", None, False, None, False),
    401: (401, "upstream_authentication_error", None, False, False, False),
    402: (503, "upstream_error", "upstream_account_suspended", False, False, False),
    403: (403, "upstream_authentication_error", None, False, False, False),
    404: (404, "not_found_error", "model_not_found", False, None, False),
    405: (502, "upstream_error", None, False, False, False),
    408: (408, "upstream_timeout", "upstream_408", True, None, True),
    412: (502, "upstream_error", None, False, False, False),
    413: (413, "invalid_request_error", None, False, None, False),
    422: (422, "invalid_request_error", None, False, None, False),
    425: (425, "invalid_request_error", None, False, None, True),
    429: (429, "rate_limit_error", "rate_limit_exceeded", True, None, True),
    451: (451, "invalid_request_error", None, False, None, False),
    500: (500, "upstream_error", None, True, None, False),
    502: (502, "upstream_error", None, True, None, False),
    503: (503, "upstream_error", None, True, None, True),
    504: (504, "upstream_timeout", "upstream_504", True, None, False),
    520: (502, "upstream_error", None, True, None, False),
    524: (504, "upstream_timeout", "upstream_504", True, None, False),
    583: (502, "upstream_error", None, False, None, False),
}


def error_of(
    status: int, body: Any = None, headers: dict[str, str] | None = None, request_id: str | None = None
) -> UpstreamError:
    return make_response_error(
        "Fireworks",
        "FIREWORKS_API_KEY",
        status=status,
        headers=CaseInsensitiveDict(headers or {}),
        request_id=request_id,
        content=body if isinstance(body, bytes) else json.dumps(body).encode(),
    )


@pytest.mark.parametrize("status", TABLE)
def test_the_status_alone_decides(status: int) -> None:
    shown, kind, code, is_retryable, should_retry, has_pause = TABLE[status]
    error = error_of(status, {"error": {"message": SAID, "type": "invalid_request_error"}})
    assert (error.status, error.type, error.code) == (shown, kind, code)
    assert (error.is_retryable, error.should_retry) == (is_retryable, should_retry)
    assert (error.retry_after_s is not None) is has_pause
    assert error.upstream_status == status and not error.retry_after_is_upstreams
    assert ("retry-after" in error.headers()) is has_pause


@pytest.mark.parametrize("shape", SHAPES)
def test_every_status_in_every_shape_has_a_message_that_says_what_to_do(shape: str) -> None:
    for status in TABLE:
        check_message(status, *SHAPES[shape])


def check_message(status: int, body: Any, has_message: bool) -> None:
    error = error_of(status, body)
    assert (error.status, error.type) == TABLE[status][:2] or (
        status == 412 and not has_message and error.status == 503
    )
    assert len(error.message) > 20 and "<" not in error.message and "None" not in error.message
    # Errors that the caller can correct keep the provider's message; those for the operator get the gateway's.
    if has_message and status not in {302, 401, 402, 403}:
        assert SAID in error.message
    assert set(json.loads(error.to_json())["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("shape", [name for name, (_, has_message) in SHAPES.items() if has_message])
def test_the_message_is_found_in_every_shape(shape: str) -> None:
    body = SHAPES[shape][0]
    message = parse_error_body(body if isinstance(body, bytes) else json.dumps(body).encode()).message
    assert message is not None and SAID in message


def test_a_list_of_field_errors_is_one_message() -> None:
    rows = [{"loc": ["body", "messages", 0], "msg": "bad"}, {"loc": ["body"], "msg": "worse"}, "x", {"msg": "worst"}]
    assert parse_error_body(json.dumps({"detail": rows}).encode()).message == "messages.0: bad; worse; worst"


def test_the_parameter_and_the_code_of_a_refusal_are_kept() -> None:
    error = error_of(400, {"error": {"message": SAID, "param": "max_tokens", "code": "BAD_REQUEST"}})
    assert (error.param, error.code) == ("max_tokens", "bad_request")
    long = error_of(400, {"error": {"message": "The prompt is too long: 9, model maximum context length: 8"}})
    assert long.code == "context_length_exceeded"
    assert error_of(404, {"error": {"message": "No", "param": "model", "code": "NOT_FOUND"}}).param == "model"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": 5}},
        {"error": {"message": ["a"]}},
        {"error": 7},
        {"error": True},
        {"error": {}, "detail": []},
        {"error": {"message": SAID, "param": 3, "code": [1]}},
        {"detail": [{"loc": 5}]},
        {"detail": [{"loc": None, "msg": None}]},
        5,
        None,
        "text",
    ],
    ids=str,
)
def test_an_unknown_shape_still_makes_an_error(body: Any) -> None:
    error = error_of(400, body)
    assert error.status == 400 and error.message and (error.param is None or isinstance(error.param, str))


@pytest.mark.parametrize("status", [402, 412])
@pytest.mark.parametrize(
    "said",
    [
        "Account acme-example is suspended, possibly due to reaching the monthly spending limit. Please go to billing.",
        "Account acme-example is disabled.",
        "acme-example: payment required",
        "ACCOUNT acme-example has no CREDIT left",
    ],
)
def test_the_name_of_a_suspended_account_is_never_shown(status: int, said: str) -> None:
    error = error_of(status, {"error": {"message": said, "code": "PRECONDITION_FAILED"}})
    assert (error.status, error.code, error.should_retry) == (503, "upstream_account_suspended", False)
    assert "acme" not in error.to_json().decode() and "operator" in error.message


def test_a_412_about_something_else_keeps_its_message() -> None:
    error = error_of(412, {"error": {"message": "accounts/fireworks/models/x: LoRA failed to load"}})
    assert error.status == 502 and "LoRA failed to load" in error.message


def test_a_refused_key_is_named_as_the_gateways() -> None:
    for status in (401, 403):
        error = error_of(status, {"error": {"message": "The API key you provided is invalid."}})
        assert "gateway's own API key" in error.message and "FIREWORKS_API_KEY" in error.message
        assert "you provided" not in error.message


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
def test_secrets_in_a_message_are_redacted(status: int) -> None:
    # Assembled here so that secret scanners do not report them.
    secrets = " ".join(prefix + "Canary" * 3 for prefix in ("fw_", "gw_", "sk-", "rc_", "cpk_"))
    said = f"Wrong: {secrets} 'Bearer Canary-token' postgresql://me:Canary@db/x\n{secrets}"
    shown = error_of(status, {"error": {"message": said, "param": "model"}}).to_json().decode()
    assert "Canary" not in shown and "[redacted]" in shown


@pytest.mark.parametrize("before", ["x" * 1972, "x" * 3972, "many words " * 179, "x" * 3990, ""])
@pytest.mark.parametrize("after", ["y" * 3000, " yes" * 750])
def test_a_configured_secret_at_a_cut_of_a_long_message_is_redacted(before: str, after: str) -> None:
    secret = "Quiet*Meadow+7-of-thirty-three-ch"  # Without the shape of a key.
    hide_secrets([secret])
    try:
        shown = [error_of(400, {"error": {"message": before + secret * times + after}}) for times in (1, 100, 130)]
    finally:
        hide_secrets([])
    for error in shown:
        assert "Quiet" not in error.message and 0 < len(error.message) <= 2000
    assert before.startswith("x" * 1972) is ("x" * 1972 in shown[0].message)


def test_a_secret_at_the_cut_of_a_long_message_is_redacted() -> None:
    for length in range(1960, 2000):
        error = error_of(400, {"error": {"message": "x" * length + " fw_" + "Canary" * 3}})
        assert "Canary" not in error.message and len(error.message) <= 2000


@pytest.mark.parametrize(
    ("headers", "least_s", "most_s"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"Retry-After": " 7 "}, 7, 7),
        ({"retry-after-ms": "1500"}, 1.5, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5, 1.5),
        ({"retry-after": "0"}, 0, 0),
        ({"retry-after": "86400"}, 300, 300),
        ({"retry-after": "9" * 400}, 300, 300),
        ({"retry-after-ms": "inf"}, 300, 300),
        ({"retry-after-ms": "-5"}, 0, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0, 0),
    ],
    ids=str,
)
def test_the_pause_that_a_provider_asks_for_is_read_in_all_its_forms(
    headers: dict[str, str], least_s: float, most_s: float
) -> None:
    pause_s = get_retry_after_s(CaseInsensitiveDict(headers))
    assert pause_s is not None and least_s <= pause_s <= most_s
    error = error_of(429, {"error": SAID}, headers)
    assert error.retry_after_is_upstreams and 1 <= int(error.headers()["retry-after"]) <= 300


def test_the_pause_may_end_at_a_date() -> None:
    pause_s = get_retry_after_s({"retry-after": formatdate(time() + 100, usegmt=True)})
    assert pause_s is not None and 50 < pause_s <= 100


@pytest.mark.parametrize("text", ["", "soon", "-1", "²", "nan", "1 minute", "Wed, 99 Oct 2015 07:28:00 GMT", "Mon, 1"])
def test_a_malformed_pause_is_ignored(text: str) -> None:
    assert get_retry_after_s({"retry-after": text}) is None
    assert get_retry_after_s({"retry-after-ms": "nan" if text == "nan" else "x" + text}) is None


@settings(max_examples=examples(100), deadline=None)
@given(st.text(max_size=40), st.text(max_size=20))
def test_no_header_breaks_the_reading_of_a_pause(text: str, milliseconds: str) -> None:
    pause_s = get_retry_after_s({"retry-after": text, "retry-after-ms": milliseconds})
    assert pause_s is None or 0 <= pause_s <= 300


def test_the_request_id_is_taken_from_the_body_before_the_headers() -> None:
    assert error_of(500, {"error": SAID, "request_id": "one"}, request_id="two").upstream_request_id == "one"
    assert error_of(500, {"error": [SAID], "request_id": "x" * 500}).upstream_request_id == "x" * 300
    for body in ({"error": SAID, "request_id": 5}, {"error": SAID}, [1], HTML):
        assert error_of(500, body, request_id="two").upstream_request_id == "two"
        assert error_of(500, body).upstream_request_id is None


def test_a_long_message_is_cut_before_it_is_redacted_and_no_part_of_a_key_remains() -> None:
    key = "sk-" + "canary" * 5
    for fill in ("word ", key + " ", "x"):
        text = (fill * 4_000)[:3_990] + " " + key + " more" * 2_000
        error = make_response_error(
            "X", "X", status=400, headers={}, request_id=None, content=json.dumps({"error": text}).encode()
        )
        assert "canary" not in error.message and 100 < len(error.message) <= 2_000


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("accounts/acme-1/models/x failed", "accounts/[redacted]/models/x failed"),
        ("accounts/fireworks-old is gone", "accounts/[redacted] is gone"),
        ("accounts/fireworks/models/x failed", "accounts/fireworks/models/x failed"),
        ("node7.pool.internal did not answer", "[redacted] did not answer"),
        ("dial 10.0.0.7:8080: refused", "dial [redacted]: refused"),
        ("see node.example.com:443/x", "see [redacted]/x"),
        ("llama3.1:70b at 12:30:45, messages.0: bad, https://a.example/x", None),
    ],
)
def test_accounts_and_hosts_are_no_concern_of_the_caller(said: str, shown: str | None) -> None:
    assert error_of(400, {"error": {"message": said}}).message == (shown or said)
