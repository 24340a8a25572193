"""Compares the clients' observations, the upstream's counts and the database's rows, request by request."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil

from app.db.tables import OUTCOMES
from app.services.journal.segment_format import COUNTERS
from tests.soak.kinds import ANSWER_USD, KINDS
from tests.soak.load import CLIENTS, Visit
from tests.support.activity_tables import ActivityTables, journal_directories
from tests.support.chat import request
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

Row = Mapping[str, Any]
# The times just before and just after an event that ends requests.
Times = tuple[float, float]

# The gateway checks every second whether a waiting client is still there; on a busy machine that may take five.
_NOTICED_S = 5.0
# The shipper works twice a second.
_SHIPPED_S = 2.0

# The outcomes of requests that a provider need not have counted.
_UNCOUNTED = ("rejected", "lost", "client_gone", "gateway_shutdown")


def select_rows(tables: ActivityTables) -> list[Row]:
    """Returns all rows of activity by column; fails if a request has two."""
    rows: list[Row] = [dict(row._mapping) for row in tables.select("SELECT * FROM activity ORDER BY started_at")]
    twice = [one for one, number in Counter(row["request_id"] for row in rows).items() if number > 1]
    assert not twice, f"{len(twice)} requests have several rows"
    return rows


def wait_until_settled(gateway: Gateway, place: Path, visits: Sequence[Visit], workers: int = 2) -> dict[str, Any]:
    """Waits until all journals below `place` are shipped and the dead ones adopted; returns the integrity by then.

    The tables lag behind by a batch, so it also waits until they have all `visits` that had an answer.
    """
    answered = len({visit.request_id for visit in visits} - {None})

    def settled() -> dict[str, Any]:
        seen = request("GET", f"{gateway.url}/api/activity/integrity", headers=gateway.headers)
        integrity: dict[str, Any] = seen.json if seen.status == 200 else {"started": -1}
        over = integrity["started"] >= answered and integrity["in_flight"] == integrity["unshipped"] == 0
        return integrity if over and _is_adoption_over(gateway, place, workers) else {}

    time.sleep(_SHIPPED_S)
    integrity = wait_until(settled, 120, "the journals to be shipped and adopted")
    assert integrity["balanced"] is True, integrity
    assert (integrity["unrecorded"], integrity["rejected"]) == (0, 0), integrity
    return integrity


def _is_adoption_over(gateway: Gateway, place: Path, workers: int) -> bool:
    """Returns whether each of the gateway's workers writes a journal below `place`, and there are no other journals.

    The number of directories is not enough: a dead worker's could make up for one that a new worker has yet to make.
    """
    files = [file for pid in gateway.worker_pids() for file in psutil.Process(pid).open_files()]
    written = {Path(file.path).parent for file in files if file.mode == "w" and Path(file.path).name == COUNTERS}
    return len(written) == workers and written == {path.resolve() for path in journal_directories(place)}


class Audit:
    """Compares the visits of a test with the rows that they left; `check` fails if they do not match.

    Args:
        visits: the visits of all clients.
        counted: how often the upstream read a request with each model name.
        rows: all rows of activity.
        kills: the times of kills of workers.
        stops: the times from telling a whole gateway to stop until it was gone.
    """

    def __init__(
        self,
        visits: Sequence[Visit],
        counted: Mapping[str, int],
        rows: Sequence[Row],
        *,
        kills: Sequence[Times] = (),
        stops: Sequence[Times] = (),
    ) -> None:
        self.visits, self.counted, self.rows = visits, counted, rows
        self._kills, self._stops = kills, stops
        self._by_id = {str(row["request_id"]): row for row in rows}
        self._by_model = {row["model_requested"]: row for row in rows if row["model_requested"] is not None}
        self._nameless = [row for row in rows if row["model_requested"] is None]

    def check(self) -> dict[str, int]:
        """Fails unless every request is accounted for once and correctly; returns the figures."""
        assert len(self._by_model) + len(self._nameless) == len(self.rows), "a request has two rows"
        assert set(self._by_model) <= {visit.model for visit in self.visits}
        assert set(self.counted) <= set(self._by_model), "the upstream served what has no row"
        for row in self.rows:
            self._check_row(row)
        for visit in self.visits:
            self._check_visit(visit, self._row_of(visit))
        self._check_nameless()
        return self._figures()

    def check_ledger(self, integrity: Mapping[str, Any]) -> None:
        """Fails unless the gateway's own ledger agrees."""
        assert integrity["outcomes"] == Counter(row["outcome"] for row in self.rows)
        assert integrity["started"] == len(self.rows) + integrity["unsent"]
        unsent = [visit for visit in self.visits if self._row_of(visit) is None and self._is_hit(visit, self._kills)]
        assert integrity["unsent"] <= len(unsent)

    def _row_of(self, visit: Visit) -> Row | None:
        return self._by_id.get(visit.request_id or "") or self._by_model.get(visit.model)

    def _check_row(self, row: Row) -> None:
        outcome, times = row["outcome"], self.counted.get(row["model_requested"], 0)
        assert outcome in OUTCOMES
        assert times or outcome in _UNCOUNTED, row
        # Attempts are listed only if the first one failed.
        attempts = len(row["attempts"] or []) or int(row["upstream_status"] == 200)
        if outcome == "ok":
            assert (row["prompt_tokens"], row["completion_tokens"]) == (11, 3), row
            assert (row["cost_usd"], row["cost_kind"]) == (Decimal(ANSWER_USD), "exact"), row
        if outcome in {"client_gone", "gateway_shutdown"}:
            # The request may have ended during an attempt: before it was sent, or while waiting for its answer.
            left_early = int(bool(row["attempts"]) and row["attempts"][-1]["error"] == outcome)
            assert attempts - left_early <= times <= attempts + 1, row
        elif outcome != "lost":
            assert times == attempts, row

    def _check_visit(self, visit: Visit, row: Row | None) -> None:
        left = visit.plan.leaves is not None
        killed, stopped = self._is_hit(visit, self._kills), self._is_hit(visit, self._stops)
        if row is None:
            assert not visit.complete, visit
            assert killed or stopped or self._may_have_no_row(visit), visit
            return
        allowed = {"gateway_shutdown"} if stopped and visit.hears_of_stop else {visit.outcome}
        if visit.complete:
            assert row["status"] == visit.status, (visit, row)
        else:
            allowed |= {"client_gone"} if left else set()
            allowed |= {"lost"} if killed else set()
            allowed |= {"gateway_shutdown"} if stopped else set()
            breaks = KINDS[visit.plan.kind].stream and visit.outcome.startswith("upstream_")
            assert left or killed or stopped or breaks, visit
        assert row["outcome"] in allowed, (visit, row)

    def _is_hit(self, visit: Visit, times: Sequence[Times]) -> bool:
        later_s = _NOTICED_S if visit.plan.leaves else 0.0
        return any(visit.overlaps(one, later_s) for one in times)

    @staticmethod
    def _may_have_no_row(visit: Visit) -> bool:
        """Tells whether a client left in such a way that its request was not read, or has a row without a model."""
        return visit.plan.leaves is not None and (
            visit.plan.abruptly or not visit.sent_all or visit.plan.kind == "garbled"
        )

    def _check_nameless(self) -> None:
        """Checks the number of indistinguishable rows, of bodies that were not JSON or did not arrive whole."""
        answered = {visit.request_id for visit in self.visits}
        strangers = [row for row in self._nameless if str(row["request_id"]) not in answered]
        assert {row["outcome"] for row in self._nameless} <= {"rejected", "client_gone", "gateway_shutdown"}
        begun = [visit for visit in self.visits if visit.sent_head and self._row_of(visit) is None]
        surely = [
            visit
            for visit in begun
            if not (visit.plan.abruptly or self._is_hit(visit, self._kills) or self._is_hit(visit, self._stops))
        ]
        assert len(surely) <= len(strangers) <= len(begun)

    def _figures(self) -> dict[str, int]:
        outcomes = Counter(row["outcome"] for row in self.rows)
        unsent = Counter(row["outcome"] for row in self.rows if not self.counted.get(row["model_requested"]))
        assert unsent["rejected"] == outcomes["rejected"]
        assert len(self.rows) == len(self.counted) + sum(unsent.values())
        assert outcomes["lost"] <= len(self._kills) * CLIENTS
        return {
            "requests": len(self.visits),
            "kills": len(self._kills),
            "rows": len(self.rows),
            "counted by the upstream": len(self.counted),
            **{f"{name} without the upstream": number for name, number in sorted(unsent.items())},
            **dict(sorted(outcomes.items())),
        }
