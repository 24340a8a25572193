"""Commands of a `RecordingProcess` that serve requests under limits, as the pipeline does but without a provider."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

# A subject of `limit`: its id, kind and limits.
Terms = dict[str, Any]


class LimitCommands:
    """The commands; each public method is one."""

    _policy: Any = None

    def limit(self, subjects: list[Terms]) -> None:
        """Sets the limits of the next requests.

        Args:
            subjects: each with id and kind, and rpm, tpm, concurrent, and budgets ([id, unit, amount, window]).
        """
        from app.services.limits import Budget, Policy, Subject

        made = [
            Subject(
                id=terms["id"],
                kind=terms["kind"],
                name=terms["id"],
                group_id=None,
                models=(),
                requests_per_minute=terms.get("rpm"),
                tokens_per_minute=terms.get("tpm"),
                concurrent=terms.get("concurrent"),
                max_output_tokens=None,
                budgets=tuple(
                    Budget(id, unit, amount, window, "UTC", 1, (50, 90))
                    for id, unit, amount, window in terms.get("budgets", [])
                ),
            )
            for terms in subjects
        ]
        self._policy = Policy(subjects=tuple(made), models=(), max_output_tokens=None)

    def spend(self, seconds: float, streams: int, ceiling: int, least: int, most: int, work_s: float) -> dict[str, Any]:
        """Serves requests in a loop, `streams` at a time, for so many seconds.

        Args:
            seconds: the time during which requests begin.
            streams: the number of concurrent requests.
            ceiling: the ceiling of each, in tokens.
            least, most: the range of actually used tokens.
            work_s: the mean duration.

        Returns:
            `admitted` (request id → when it began and ended, Unix times), `refused` (error code → count), `waits_s` of
            admitted ones, and `longest`: the maximum in flight.
        """
        import gevent

        result: dict[str, Any] = {"admitted": {}, "refused": Counter(), "waits_s": [], "in_flight": 0, "longest": 0}
        end_s = time.monotonic() + seconds

        def run() -> None:
            while time.monotonic() < end_s:
                self._serve(result, ceiling, random.randint(least, most), work_s)

        gevent.joinall([gevent.spawn(run) for _ in range(streams)], raise_error=True)
        return result

    def spend_for_ever(self, streams: int, ceiling: int, least: int, most: int, work_s: float) -> None:
        """As `spend`, until the process ends."""
        import gevent

        result: dict[str, Any] = {"admitted": {}, "refused": Counter(), "waits_s": [], "in_flight": 0, "longest": 0}

        def run() -> None:
            while True:
                self._serve(result, ceiling, random.randint(least, most), work_s)

        for _ in range(streams):
            gevent.spawn(run)

    def _serve(self, result: dict[str, Any], ceiling: int, used: int, work_s: float) -> None:
        import gevent

        from app.errors import GatewayError
        from app.limit_errors import LimitReached
        from app.runtime import get_component
        from app.services.journal import Journal
        from app.services.limits import Ceiling, Charge, Limits

        record = self._begin()
        began_s = time.monotonic()
        reservation = None
        try:
            reservation = get_component(Limits).enter(self._policy)
            reservation.reserve([Ceiling(ceiling * 10**6, ceiling, ceiling, lambda cost, tokens: None)])
        except GatewayError as error:
            if reservation is not None:
                reservation.release()
            result["refused"][error.code] += 1
            self._finish(record, "rejected", error.status)
            # Like a client, it waits for a moment, at most as long as it is told.
            wait_s = error.retry_after_s if isinstance(error, LimitReached) and error.retry_after_s else 0.1
            gevent.sleep(min(wait_s, 0.1) * random.random())
            return
        result["waits_s"].append(time.monotonic() - began_s)
        span = result["admitted"][record.request_id] = [time.time()]
        result["in_flight"] += 1
        result["longest"] = max(result["longest"], result["in_flight"])
        record.charged_usd, record.charged_tokens = reservation.ceiling_usd, reservation.ceiling_tokens
        record.budget_periods = reservation.period_ids
        get_component(Journal).write_start(record)
        gevent.sleep(work_s * 2 * random.random())
        result["in_flight"] -= 1
        span.append(time.time())
        record.prompt_tokens, record.completion_tokens, record.usage_source = used, 0, "provider"
        record.cost_usd, record.cost_kind = f"{used * 10**6 / 10**12:.12f}", "exact"
        record.charged_usd, record.charged_tokens = record.cost_usd, used
        self._finish(record, "ok", 200)
        reservation.settle(Charge(used * 10**6, used, 1, used))
        reservation.release()

    def hold_reserved(self, count: int, ceiling: int) -> None:
        """Reserves for `count` requests, sends them to the provider, and leaves them in flight."""
        from app.runtime import get_component
        from app.services.journal import Journal
        from app.services.limits import Ceiling, Limits

        for _ in range(count):
            record = self._begin()
            reservation = get_component(Limits).enter(self._policy)
            reservation.reserve([Ceiling(ceiling * 10**6, ceiling, ceiling, lambda cost, tokens: None)])
            record.charged_usd, record.charged_tokens = reservation.ceiling_usd, reservation.ceiling_tokens
            record.budget_periods = reservation.period_ids
            get_component(Journal).write_start(record)

    def give_back(self) -> None:
        """Waits until all amounts that this process does not need have gone back to the budgets."""
        import gevent

        from app.runtime import get_component
        from app.services.limits import Limits

        while any(get_component(Limits).get_outstanding().values()):
            gevent.sleep(0.01)

    def outstanding(self) -> dict[str, int]:
        """Returns unit → the amount that this process has drawn from budgets and not spent."""
        from app.runtime import get_component
        from app.services.limits import Limits

        return dict(get_component(Limits).get_outstanding())

    def stop_limits(self) -> bool:
        """Ends the draws, as a worker does before it stops its journal."""
        from app.services.limits import stop_limits

        return stop_limits(5.0)

    def _begin(self) -> Any:
        raise NotImplementedError

    def _finish(self, record: Any, outcome: str, status: int) -> None:
        raise NotImplementedError
