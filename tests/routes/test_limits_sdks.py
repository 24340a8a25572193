"""Official SDKs after a refusal by a limit: one request for 402 and 403, and the suggested waits for 429."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.answers import chat_answer
from tests.support.chat import HELLO, PREFIX, rows_where
from tests.support.gateway import Gateway
from tests.support.limited_keys import make_limited_key
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, wait_for
from tests.support.sdks import anthropic, openai
from tests.support.waiting import wait_until

MODEL = PREFIX + "scripted"
Call = Callable[..., Any]
# The SDKs' own number of retries.
OPTIONS: dict[str, Any] = {"max_retries": 2, "timeout": 30}


@pytest.fixture(params=["openai", "anthropic"])
def call(request: pytest.FixtureRequest, scripted_gateway: Gateway) -> Iterator[Call]:
    """A function `(key, model, n)` that asks for `n` output tokens with an SDK in its default configuration."""

    def call_openai(key: str, model: str = MODEL, n: int = 9) -> Any:
        with openai.OpenAI(base_url=f"{scripted_gateway.url}/v1", api_key=key, **OPTIONS) as client:
            return client.chat.completions.create(model=model, messages=HELLO, max_tokens=n)  # type: ignore[arg-type]

    def call_anthropic(key: str, model: str = MODEL, n: int = 9) -> Any:
        with anthropic.Anthropic(base_url=scripted_gateway.url, api_key=key, **OPTIONS) as client:
            return client.messages.create(model=model, messages=HELLO, max_tokens=n)  # type: ignore[arg-type]

    yield call_openai if request.param == "openai" else call_anthropic


def count_requests(database_url: str, key: str) -> int:
    """Returns the number of requests that the key has sent, once they are recorded."""
    id = key.split("_")[1]
    wait_until(lambda: rows_where(database_url, "key_id", id), what="the rows")
    time.sleep(1.2)  # Batches are shipped every half a second, so any further row is there by then.
    return len(rows_where(database_url, "key_id", id))


def test_a_402_and_a_403_are_one_request(call: Call, upstream: ScriptedUpstream, session_database_url: str) -> None:
    spent = make_limited_key(session_database_url, ("tokens", 5))
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
        call(spent)
    assert caught.value.status_code == 402
    said = caught.value.body
    assert isinstance(said, dict)
    shown = said.get("error") or said
    assert shown["type"] in ("insufficient_quota", "billing_error") and "budget of 5 tokens a day" in shown["message"]
    narrow = make_limited_key(session_database_url, models=["fireworks/other"])
    unpriced = make_limited_key(session_database_url, ("usd", 5))
    for key in (narrow, unpriced):
        with pytest.raises((openai.PermissionDeniedError, anthropic.PermissionDeniedError)):
            call(key)
    assert [count_requests(session_database_url, key) for key in (spent, narrow, unpriced)] == [1, 1, 1]
    assert upstream.calls == []


def test_a_429_is_waited_for_as_long_as_it_says(
    call: Call, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    """The first request holds the only slot; the second one waits for the second that it is told, and is served."""
    key = make_limited_key(session_database_url, concurrent=1)
    gate = Gate()
    upstream.enqueue([wait_for(gate), *chat_answer("hi")])
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(call, key)
        wait_until(lambda: upstream.calls, what="the first request at the provider")
        began_s = time.monotonic()
        second = threads.submit(call, key)
        id = key.split("_")[1]
        wait_until(lambda: rows_where(session_database_url, "key_id", id), what="the row of the refusal")
        gate.open()
        first.result()
        second.result()
    assert time.monotonic() - began_s >= 1
    rows = wait_until(
        lambda: len(found := rows_where(session_database_url, "key_id", id)) >= 3 and found, what="three rows"
    )
    assert sorted(row["status"] for row in rows) == [200, 200, 429]
    assert [row["client_retry"] for row in rows if row["client_retry"]] == [1]
