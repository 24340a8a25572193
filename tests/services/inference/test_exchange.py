"""The end of a request: if one step raises, all others still run, and the record has all known values."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from app.config import load_settings
from app.errors import UpstreamError
from app.runtime import use_settings
from app.services.endpoints import CHAT, StreamSummary
from app.services.inference import Exchange
from app.services.inference.limited import LimitedRequest
from app.services.inference.metering import finish_with_error, record_stream
from app.services.limits import Budget, Ceiling, Policy, Subject
from app.services.limits.acquisition import take_at_once
from app.services.limits.binding import Binding
from app.services.limits.budget_pots import BudgetPot
from app.services.limits.pots import Lot, SlotPot
from app.services.streaming import ClientConnection

CENT = 10**10


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Path]:
    use_settings(load_settings({"JOURNAL_DIR": str(tmp_path)}))
    yield tmp_path
    use_settings(None)


def make_limited() -> tuple[LimitedRequest, BudgetPot, SlotPot]:
    """Returns a request that has reserved a cent of a budget, and holds a slot."""
    subject = Subject("holder", "holder", "alice", None, (), None, None, 5, None, (_BUDGET,))
    budget = BudgetPot(subject, _BUDGET, lambda now_s: 1_700_000_000.0 + now_s, lambda pot: None)
    slots = SlotPot(subject, 5, lambda pot: None)
    budget.current.set_drawn(5 * CENT)
    slots.note_answer(5, 5, 1, time.monotonic())
    policy = Policy((subject,), (), None)
    binding = Binding(policy, [slots.share], [budget], [])
    held = take_at_once(binding.entry, (0, 0, 1, 0, 1), time.monotonic())
    assert held is not None
    nobody: Any = None  # Nothing has to wait, so no component is needed.
    limited = LimitedRequest(nobody, binding, held)
    limited.reserve([Ceiling(CENT, 100, 100, lambda cost, tokens: None)])
    limited.endpoint, limited.has_ceiling, limited.most_cost, limited.most_tokens = CHAT, True, CENT, 100
    return limited, budget, slots


_BUDGET = Budget(7, "usd", "5", "day", "UTC", 1, ())


def make_exchange() -> tuple[Exchange, BudgetPot, SlotPot]:
    exchange = Exchange(CHAT, "key", ClientConnection(None))
    exchange.limited, budget, slots = make_limited()
    exchange.limited._write_ceiling(exchange.record)
    exchange.write_start()
    exchange.is_sent = True
    return exchange, budget, slots


def final_rows(journal: Path) -> list[dict[str, Any]]:
    lines = b"".join(path.read_bytes() for path in sorted(journal.glob("*/*"))).split(b"\n")
    return [json.loads(line[1:]) for line in lines if line.startswith(b"F{")]


def faults(step: str) -> float:
    return REGISTRY.get_sample_value("gateway_request_faults_total", {"step": step}) or 0.0


@pytest.mark.parametrize("step", ["usage", "error", "charge", "settle", "release", "count"])
def test_a_step_that_fails_keeps_no_other_from_running(
    journal: Path, capfd: pytest.CaptureFixture[str], step: str
) -> None:
    exchange, budget, slots = make_exchange()
    released: list[str] = []
    exchange.on_finish(lambda: released.append("first"))
    exchange.on_finish(lambda: released.append("last"))
    record, before, charged = exchange.record, faults(step), CENT
    broken: Any = None  # A value of the wrong type, which only a mistake in the gateway can cause.
    if step == "usage":
        summary = StreamSummary()
        summary.longest_gap_s = broken
        record_stream(exchange, broken, summary, is_complete=True)
    elif step == "charge":
        record.cost_usd = "no number"
    elif step == "settle":
        _break_first_pot(exchange)
    elif step == "release":
        exchange.on_finish(lambda: released[9])  # type: ignore[arg-type, return-value]
    elif step == "count":
        record.ttft_ms = "soon"  # type: ignore[assignment]
    if step == "error":
        error = UpstreamError("it failed")
        error.message = broken
        finish_with_error(exchange, error)
    else:
        exchange.finish("ok", 200)
    (row,) = final_rows(journal)
    assert row["outcome"] == ("upstream_error" if step == "error" else "ok")
    assert Decimal(row["charged_usd"]) == Decimal("0.01") and row["budget_periods"]
    assert released == ["last", "first"]
    assert (budget.current.used, budget.current.spent) == (charged, charged)
    assert slots.used == 0
    logged = [json.loads(line) for line in capfd.readouterr().err.splitlines() if '"request_step_failed"' in line]
    assert [line["step"] for line in logged] == [step] and faults(step) == before + 1
    exchange.finish("ok", 200)
    assert len(final_rows(journal)) == 1


def _break_first_pot(exchange: Exchange) -> None:
    """Makes the pot of the slots raise; the budget after it must still be settled."""
    assert exchange.limited is not None
    held = exchange.limited.held

    class Broken(SlotPot):
        def note_settled(self, lot: Lot) -> None:
            raise RuntimeError("a mistake")

    (slots, need, lot), *others = held
    broken = Broken(slots.pot.subject, 5, lambda pot: None)
    held[:] = [(broken.share, need, lot), *others]
