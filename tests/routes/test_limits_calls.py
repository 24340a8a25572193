"""Requests call no code of limits, of several targets or of traces unless they use it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

from flask.testing import FlaskClient

from tests.support.chat import HELLO, PREFIX
from tests.support.gateway import GATEWAY_KEY
from tests.support.limited_keys import make_limited_key
from tests.support.waiting import wait_until

MODEL = PREFIX + "deepseek-v3p1"
# Files that only requests with a special header need.
HEADER_FILES = ("services/idempotency/", "db/kept_answers.py", "inference/once.py", "inference/dry_run.py")
OWN_FILES = ("services/limits/", "inference/limited.py", "inference/ceiling.py", "inference/output_limit.py")


def see_files(client: FlaskClient, key: str, path: str, body: dict[str, object]) -> set[str]:
    """Returns the files whose Python functions are called during one warm request."""
    headers = {"Authorization": f"Bearer {key}"}
    with client.post(path, json=body, headers=headers) as response:
        assert response.status_code == 200 and response.get_data()
    seen: set[str] = set()

    def see(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            seen.add(frame.f_code.co_filename)

    sys.setprofile(see)
    try:
        with client.post(path, json=body, headers=headers) as response:
            assert response.status_code == 200 and response.get_data()
    finally:
        sys.setprofile(None)
    return {Path(name).as_posix() for name in seen}


def test_a_key_without_limits_calls_nothing_of_them(client: FlaskClient, database_url: str) -> None:
    everything = {"requests_per_minute": 99, "tokens_per_minute": 10**6, "concurrent": 9, "max_output_tokens": 99}
    unlimited = make_limited_key(database_url)
    limited = make_limited_key(database_url, ("tokens", 10**6), models=["fireworks/*"], **everything)
    for path in ("/v1/chat/completions", "/v1/messages"):
        for stream in (False, True):
            body = {"model": MODEL, "max_tokens": 9, "messages": HELLO, "stream": stream}
            for key, expected in ((GATEWAY_KEY, []), (unlimited, []), (limited, list(OWN_FILES))):
                seen = see_files(client, key, path, body)
                assert [own for own in OWN_FILES if any(own in name for name in seen)] == expected
                assert not [own for own in HEADER_FILES if any(own in name for name in seen)]


# Files that choose among several targets, order them, and name their attempts.
CHOICE_FILES = (
    "inference/target_selection.py",
    "inference/fallback.py",
    "inference/attempts.py",
    "routing/ranking.py",
    "routing/health.py",
    "routing/affinity.py",
    "routing/route.py",
    "routing/candidates.py",
)


def test_a_request_with_one_target_calls_nothing_of_the_choice_among_several(client: FlaskClient) -> None:
    for path in ("/v1/chat/completions", "/v1/messages"):
        for stream in (False, True):
            body = {"model": MODEL, "max_tokens": 9, "messages": HELLO, "stream": stream}

            def calls_nothing(path: str = path, body: dict[str, object] = body) -> bool:
                seen = see_files(client, GATEWAY_KEY, path, body)
                return not any(own in name for own in CHOICE_FILES for name in seen)

            # Repeated, because routes are computed again when a new list of models arrives.
            wait_until(calls_nothing, what="a request without a choice")
            seen = see_files(client, GATEWAY_KEY, path, body | {"models": [PREFIX + "glm-5p3"]})
            called = {own for own in CHOICE_FILES if any(own in name for name in seen)}
            assert called >= {"inference/target_selection.py", "routing/ranking.py", "routing/health.py"}


# Files that make traces and spans.
TRACE_FILES = ("services/traces/", "inference/tracing.py")


def test_a_request_without_a_trace_calls_nothing_of_traces(client: FlaskClient) -> None:
    for stream in (False, True):
        seen = see_files(
            client, GATEWAY_KEY, "/v1/chat/completions", {"model": MODEL, "messages": HELLO, "stream": stream}
        )
        assert [own for own in TRACE_FILES if any(own in name for name in seen)] == []
