"""Retries are linked once to the attempts that they repeat, however requests of several clients are mixed."""

from __future__ import annotations

import random
import uuid
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from app.db.retries import Attempt
from app.services.journal.retry_links import (
    LONGEST_PAUSE,
    LONGEST_PAUSE_OK,
    LONGEST_UNKNOWN,
    PATIENCE_S,
    match_retries,
)

NOON = datetime(2026, 3, 14, 12, tzinfo=UTC)


def make_attempt(
    at_s: float = 0.0,
    number: int = 0,
    *,
    took_s: float | None = 1.0,
    key: str = "key-1",
    body: str = "body",
    is_ok: bool = False,
    is_repeated: bool = False,
    waits_s: float = 0.0,
) -> Attempt:
    """Returns an attempt that began `at_s` seconds after NOON."""
    started_at = NOON + timedelta(seconds=at_s)
    took_ms = None if took_s is None else took_s * 1000
    path = "/v1/chat/completions"
    return Attempt(uuid.uuid4(), started_at, key, path, body, number, took_ms, is_ok, is_repeated, None, waits_s)


def link(retry: Attempt, *attempts: Attempt) -> Attempt | None:
    """Returns the attempt to which a retry is linked."""
    links = match_retries([retry], [*attempts, retry])
    return links[0].attempt if links else None


# Requests of clients: (key, body, start, [(duration of an attempt, pause after it)]).
_ATTEMPTS = st.lists(st.tuples(st.floats(0.01, 600), st.floats(0.4, 60)), min_size=1, max_size=5)
_CHAINS = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.floats(0, 900), _ATTEMPTS), min_size=1, max_size=8
)


@given(_CHAINS, st.randoms(use_true_random=False))
def test_the_links_of_requests_that_differ_are_their_chains(
    drawn: list[tuple[str, str, float, list[tuple[float, float]]]], order: random.Random
) -> None:
    """Requests that differ in key or body are told apart, in whatever order their records are read."""
    chains = {(key, body): (begin_s, attempts) for key, body, begin_s, attempts in drawn}
    expected: dict[uuid.UUID, uuid.UUID] = {}
    everything: list[Attempt] = []
    for (key, body), (begin_s, attempts) in chains.items():
        before: Attempt | None = None
        for number, (took_s, pause_s) in enumerate(attempts):
            is_last = number == len(attempts) - 1
            attempt = make_attempt(begin_s, number, took_s=took_s, key=key, body=body, is_ok=is_last)
            if before is not None:
                expected[attempt.request_id] = before.request_id
            everything.append(attempt)
            before, begin_s = attempt, begin_s + took_s + pause_s
    order.shuffle(everything)
    retries = [each for each in everything if each.number]
    found = {each.retry.request_id: each.attempt.request_id for each in match_retries(retries, everything)}
    assert found == expected


@given(
    st.lists(
        st.builds(
            make_attempt,
            st.floats(0, 1200),
            st.integers(0, 4),
            took_s=st.none() | st.floats(0, 300),
            key=st.sampled_from("ab"),
            body=st.sampled_from("xy"),
            is_ok=st.booleans(),
            is_repeated=st.booleans(),
            waits_s=st.sampled_from([0.0, 2 * PATIENCE_S]),
        ),
        max_size=25,
    )
)
def test_every_link_is_possible_and_no_attempt_is_repeated_twice(attempts: list[Attempt]) -> None:
    retries = [each for each in attempts if each.number]
    links = match_retries(retries, attempts)
    for retry, attempt in links:
        assert (retry.key_id, retry.body_digest) == (attempt.key_id, attempt.body_digest)
        assert attempt.number < retry.number and attempt.started_at < retry.started_at and not attempt.is_repeated
        if attempt.duration_ms is not None:
            pause = retry.started_at - attempt.started_at - timedelta(milliseconds=attempt.duration_ms)
            assert pause <= (LONGEST_PAUSE_OK if attempt.is_ok else LONGEST_PAUSE)
    assert (
        len({each.attempt.request_id for each in links}) == len(links) == len({each.retry.request_id for each in links})
    )
    # The unlinked retries have no unlinked attempt that they could repeat.
    taken = {each.attempt.request_id for each in links}
    linked = {each.retry.request_id for each in links}
    free = [each for each in attempts if each.request_id not in taken]
    assert match_retries([each for each in retries if each.request_id not in linked], free) == []


def test_of_equal_requests_at_once_the_one_that_failed_is_repeated() -> None:
    running, served = make_attempt(0, took_s=30, is_ok=True), make_attempt(0, took_s=2, is_ok=True)
    failed = make_attempt(1, took_s=1)
    assert link(make_attempt(3, 1), running, served, failed) == failed


def test_an_attempt_that_went_on_after_its_client_had_left_is_repeated() -> None:
    attempt = make_attempt(0, took_s=300, is_ok=True)
    assert link(make_attempt(61, 1), attempt) == attempt


def test_a_request_that_was_served_long_before_is_not_repeated() -> None:
    attempt = make_attempt(0, took_s=1, is_ok=True)
    assert link(make_attempt(1 + LONGEST_PAUSE_OK.total_seconds() + 0.1, 1), attempt) is None


def test_an_attempt_of_a_killed_worker_is_repeated_within_minutes() -> None:
    attempt, most_s = make_attempt(0, took_s=None), LONGEST_UNKNOWN.total_seconds()
    assert link(make_attempt(most_s, 1), attempt) == attempt
    assert link(make_attempt(most_s + 1, 1), attempt) is None


def test_a_missing_attempt_is_waited_for_and_then_skipped() -> None:
    first = make_attempt(0)
    assert link(make_attempt(3, 2), first) is None
    assert link(make_attempt(3, 2, waits_s=PATIENCE_S), first) == first
