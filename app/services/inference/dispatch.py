"""One chat request at one provider, tried again where that is safe: before the first byte, never past the deadline."""

from __future__ import annotations

import random
import time
from typing import Any

from app.errors import UpstreamError
from app.services.inference.circuit_breaker import abandon_probe, check_breakers, note_failure, note_success
from app.upstream import Response, UpstreamClient

# The pauses grow from here, each drawn evenly from zero to its bound ("full jitter": Brooker, "Exponential Backoff
# and Jitter", AWS Architecture Blog, 2015), so that clients that failed together do not come back together.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 4.0

# A provider that asks for a longer pause gets it from the client, who is told; a request held here costs a place.
LONGEST_RETRY_AFTER_S = 5.0


def post_chat_with_retries(
    client: UpstreamClient,
    provider: str,
    body: bytes,
    *,
    stream: bool,
    retries: int,
    deadline_s: float,
    attempts: list[Any],
) -> Response:
    """Sends a chat request, and again after a failure that left nothing behind.

    Args:
        client: the provider's client.
        provider: its name, for its breakers.
        body: the request as JSON.
        stream: whether it asks for Server-Sent Events.
        retries: how often at most it is tried again.
        deadline_s: when the whole request must be over, on the monotonic clock.
        attempts: where the first attempt fails, each is added here, as it stands on the activity row.

    Raises:
        UpstreamError: the last attempt's failure; after retries it tells the client not to retry by itself.
    """
    while True:
        check_breakers(provider)  # Its refusal is no attempt: nothing was sent, and no probe of a breaker failed.
        started_s = time.monotonic()
        try:
            answer = client.post("/chat/completions", body, stream=stream)
        except UpstreamError as error:
            pause_s = _note(error, provider, attempts, started_s)
            if len(attempts) > retries or pause_s is None or time.monotonic() + pause_s >= deadline_s:
                if len(attempts) > 1:
                    error.should_retry = False
                raise
            time.sleep(pause_s)
        except BaseException:
            abandon_probe(provider)
            raise
        else:
            note_success(provider)
            if attempts:
                attempts.append({"status": answer.status, "error": None, "ms": _since_ms(started_s)})
            return answer


def _note(error: UpstreamError, provider: str, attempts: list[Any], started_s: float) -> float | None:
    """Records a failed attempt; returns the pause before the next one in seconds, None when there should be none."""
    note_failure(provider, error)
    code = error.code or error.type
    attempts.append({"status": error.upstream_status, "error": code, "ms": _since_ms(started_s)})
    if not error.is_retryable:
        return None
    if error.retry_after_is_upstreams and error.retry_after_s is not None:
        asked_s = error.retry_after_s
        return asked_s + random.random() * FIRST_PAUSE_S if asked_s <= LONGEST_RETRY_AFTER_S else None
    bound_s = min(FIRST_PAUSE_S * 2.0 ** (len(attempts) - 1), LONGEST_PAUSE_S)
    return random.random() * bound_s


def _since_ms(started_s: float) -> float:
    return round((time.monotonic() - started_s) * 1000, 1)
