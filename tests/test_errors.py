"""Every error has its status, type and outcome, and one JSON shape."""

from __future__ import annotations

import inspect
import json
import re

import pytest

from app import errors, limit_errors
from app.errors import BadRequest, ClientGone, GatewayError, TooManyRefusals, UpstreamError, drop_frames
from app.limit_errors import LimitReached

CLASSES = [
    kind
    for module in (errors, limit_errors)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, GatewayError) and kind.__module__ == module.__name__
]

# Class → status, type, outcome, x-should-retry.
TABLE = {
    "GatewayError": (500, "api_error", "rejected", None),
    "BadRequest": (400, "invalid_request_error", "rejected", None),
    "BodyTooLarge": (413, "invalid_request_error", "rejected", None),
    "BodyTooSlow": (408, "invalid_request_error", "rejected", None),
    "UnsupportedCoding": (415, "invalid_request_error", "rejected", None),
    "Conflict": (409, "invalid_request_error", "rejected", None),
    "LimitReached": (429, "rate_limit_error", "rejected", None),
    "InsufficientQuota": (402, "insufficient_quota", "rejected", False),
    "AuthenticationFailed": (401, "authentication_error", "rejected", None),
    "PermissionDenied": (403, "permission_error", "rejected", None),
    "NotFound": (404, "not_found_error", "rejected", None),
    "MethodNotAllowed": (405, "invalid_request_error", "rejected", None),
    "TooManyRefusals": (429, "rate_limit_error", "rejected", None),
    "ConfigurationMissing": (503, "configuration_error", "rejected", False),
    "Unavailable": (503, "unavailable_error", "rejected", None),
    "ClientGone": (499, "client_gone", "client_gone", None),
    "GatewayShutdown": (503, "gateway_shutdown", "gateway_shutdown", None),
    "UpstreamError": (502, "upstream_error", "upstream_error", None),
    "UpstreamRefused": (502, "upstream_error", "upstream_error", None),
    "UpstreamAuthenticationFailed": (502, "upstream_authentication_error", "upstream_error", False),
    "UpstreamSuspended": (503, "upstream_error", "upstream_error", False),
    "UpstreamUnreachable": (502, "upstream_error", "upstream_error", None),
    "UpstreamTimeout": (504, "upstream_timeout", "upstream_timeout", None),
    "UpstreamCut": (502, "upstream_error", "upstream_cut", None),
}


def make(kind: type[GatewayError]) -> GatewayError:
    if kind is TooManyRefusals:
        return TooManyRefusals("Do this.", request_id="req_1")
    if issubclass(kind, LimitReached):
        return kind("Do this.", limit="key budget day")
    return ClientGone() if kind is ClientGone else kind("Do this.")


def test_the_table_has_every_error() -> None:
    assert {kind.__name__ for kind in CLASSES} == set(TABLE)


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_says_what_the_table_says(kind: type[GatewayError]) -> None:
    error = make(kind)
    assert (error.status, error.type, error.outcome, error.should_retry) == TABLE[kind.__name__]
    own = {"accept-encoding": "gzip"} if error.status == 415 else {}
    own |= {"x-gateway-limit": "key budget day"} if isinstance(error, LimitReached) else {}
    assert error.headers() == own | ({} if error.should_retry is None else {"x-should-retry": "false"})


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn = re.findall(r"^    ([│ ├└─]*)([A-Z]\w+) +\d", errors.__doc__ or "", re.MULTILINE)
    depths = {name: len(lead) // 4 for lead, name in drawn}
    assert depths == {kind.__name__: len(kind.__mro__) - len(GatewayError.__mro__) for kind in CLASSES}


def test_the_shape_is_one() -> None:
    error = BadRequest('Say it «so»: "quoted"\nand long.', param="top_k", code="invalid_parameter")
    expected = {
        "message": error.message,
        "type": "invalid_request_error",
        "param": "top_k",
        "code": "invalid_parameter",
    }
    assert error.to_dict() == {"error": expected} == json.loads(error.to_json())
    event = error.to_event()
    assert event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n") == 2
    assert json.loads(event[6:]) == {"error": expected}


def test_what_is_unknown_is_null_and_there() -> None:
    assert json.loads(GatewayError("x").to_json())["error"] == {
        "message": "x",
        "type": "api_error",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize(("pause_s", "shown"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.2, "2"), (300.0, "300")])
def test_a_pause_is_told_in_whole_seconds_and_never_too_short(pause_s: float, shown: str) -> None:
    assert GatewayError("x", retry_after_s=pause_s).headers() == {"retry-after": shown}


def test_one_error_may_differ_from_its_class() -> None:
    error = UpstreamError("x", status=500, type="other", code="c", should_retry=True)
    assert (error.status, error.type, error.code) == (500, "other", "c")
    assert error.headers() == {"x-should-retry": "true"}
    assert (UpstreamError.status, UpstreamError("y").status, UpstreamError("y").is_retryable) == (502, 502, False)
    assert str(error) == error.message == "x"


def test_an_error_without_its_frames_has_no_causes_either() -> None:
    first, second = UpstreamError("first"), UpstreamError("second")
    try:
        try:
            raise first
        except UpstreamError:
            raise second from first
    except UpstreamError:
        first.__cause__ = second  # Causes may even form a cycle.
    assert first.__traceback__ is not None and second.__traceback__ is not None
    drop_frames(second)
    assert [(each.__traceback__, each.__cause__, each.__context__) for each in (first, second)] == [(None,) * 3] * 2
