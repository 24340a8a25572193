"""Links the retries of SDKs to the attempts that they repeat, after both records have arrived."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from app.db import Database, describe_error, time_limit
from app.db.retries import (
    Attempt,
    Link,
    delete_unlinked,
    has_unlinked,
    select_attempts,
    select_unlinked,
    try_lock_links,
    update_links,
)
from app.logs import log_event
from app.runtime import Runtime
from app.services.journal.delivery import STATEMENT_TIME_LIMIT_S
from app.services.journal.folder import IDLE_PAUSE_S
from app.services.journal.recorder import REPORT_INTERVAL_S

# How often a process looks for waiting retries. All processes together link about as often.
LOOK_INTERVAL_S = 2.0
FAILURE_PAUSE_S = 10.0

# The most retries that one transaction links, and the most requests among which it looks for their originals.
MAX_RETRIES = 500
MAX_ATTEMPTS = 5_000

# SDKs wait up to a minute for `retry-after`. The gateway may notice that a client gave up, and the attempt may end,
# only a moment after the retry began.
LONGEST_PAUSE = timedelta(seconds=150)
# After an answer that was sent there is no `retry-after`: a client that did not receive it waits for at most eight
# seconds. Later requests with the same body are new ones, whose own first attempt never arrived.
LONGEST_PAUSE_OK = timedelta(seconds=15)
# For an attempt whose end is unknown, because its worker was killed: SDKs give up after ten minutes by default.
LONGEST_UNKNOWN = timedelta(minutes=12)
# No request takes longer, so earlier starts are not searched.
REACH = timedelta(hours=1)

# The attempt right before a retry may need this long to arrive here. After that, an earlier one is used: the gateway
# refuses some attempts before it reads their body, so they have no digest.
PATIENCE_S = 60.0


def match_retries(retries: Sequence[Attempt], attempts: Sequence[Attempt]) -> list[Link]:
    """Finds the attempt that each retry repeats.

    A retry repeats an earlier attempt with the same key, endpoint and digest and a lower number, which ended at most
    LONGEST_PAUSE before it began, or LONGEST_PAUSE_OK if it was served. No two retries repeat the same attempt. If
    several attempts are possible, because a client sends one body several times at once, the one with the highest
    number is chosen, then one that had ended and failed, then the one that ended last.

    Args:
        retries: the retries to link.
        attempts: the attempts that they may repeat; retries may be among them.
    """
    by_body: dict[tuple[str, str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_body[attempt.key_id, attempt.endpoint, attempt.body_digest].append(attempt)
    taken: set[UUID] = {attempt.request_id for attempt in attempts if attempt.is_repeated}
    links = []
    for retry in sorted(retries, key=lambda each: (each.started_at, each.number)):
        same = by_body[retry.key_id, retry.endpoint, retry.body_digest]
        possible = [each for each in same if each.request_id not in taken and _may_repeat(retry, each)]
        if possible:
            best = max(possible, key=lambda each: _rank(retry, each))
            taken.add(best.request_id)
            links.append(Link(retry, best))
    return links


def _may_repeat(retry: Attempt, attempt: Attempt) -> bool:
    if attempt.number >= retry.number or attempt.started_at >= retry.started_at:
        return False
    if attempt.number < retry.number - 1 and retry.waits_s < PATIENCE_S:
        return False
    if attempt.duration_ms is None:
        return retry.started_at - attempt.started_at <= LONGEST_UNKNOWN
    return retry.started_at - _end(attempt) <= (LONGEST_PAUSE_OK if attempt.is_ok else LONGEST_PAUSE)


def _end(attempt: Attempt) -> datetime:
    return attempt.started_at + timedelta(milliseconds=attempt.duration_ms or 0)


def _rank(retry: Attempt, attempt: Attempt) -> tuple[int, bool, bool, bool, datetime]:
    had_ended = _end(attempt) <= retry.started_at
    return attempt.number, had_ended and not attempt.is_ok, not attempt.is_ok, had_ended, _end(attempt)


class RetryLinker:
    """Links waiting retries, at most every LOOK_INTERVAL_S. It never raises."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._next_at_s = 0.0
        self._report_at_s = 0.0

    def link_if_due(self, *, is_idle: bool) -> None:
        """Links if a check is due; another process may be linking, or nothing may be waiting.

        Args:
            is_idle: whether this process has shipped nothing lately.
        """
        if time.monotonic() < self._next_at_s + (IDLE_PAUSE_S if is_idle else 0.0):
            return
        self._next_at_s = time.monotonic() + LOOK_INTERVAL_S
        try:
            with time_limit(STATEMENT_TIME_LIMIT_S):
                if self.link() >= MAX_RETRIES:
                    self._next_at_s = 0.0
        except Exception as error:
            self._next_at_s = time.monotonic() + FAILURE_PAUSE_S
            if time.monotonic() >= self._report_at_s:
                self._report_at_s = time.monotonic() + REPORT_INTERVAL_S
                log_event("retry_linking_failed", level="warning", reason=describe_error(error))

    def link(self) -> int:
        """Links waiting retries in one transaction, and returns the number of links.

        Raises:
            DatabaseError: the database is unavailable; nothing was linked.
        """
        database = self._runtime.get(Database)
        with database.poll_connection() as connection:
            if not has_unlinked(connection):
                return 0
        with database.engine.begin() as connection:
            if not try_lock_links(connection):
                return 0
            retries = select_unlinked(connection, MAX_RETRIES)
            links: list[Link] = []
            if retries:
                start = min(each.started_at for each in retries) - REACH
                end = max(each.started_at for each in retries)
                digests = list({each.body_digest for each in retries})
                links = match_retries(retries, select_attempts(connection, digests, start, end, MAX_ATTEMPTS))
            update_links(connection, links)
            delete_unlinked(connection, [link.retry.request_id for link in links])
        return len(links)
