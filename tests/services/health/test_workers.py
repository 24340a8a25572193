"""Each worker reports its state to the registry, and the report covers all workers: breakers that are open anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, event, text

from app.config import load_settings
from app.db import get_engine
from app.errors import UpstreamUnreachable
from app.runtime import get_component, get_runtime, use_settings
from app.services.health.workers import encode_worker_state, get_worker_state, select_workers_report
from app.services.inference.circuit_breaker import FIRST_PAUSE_S, THRESHOLDS, CircuitBreakers
from app.services.journal.registration import WorkerRegistration


@pytest.fixture
def engine(database_url: str, tmp_path: Path) -> Iterator[Engine]:
    """Points this process's settings at the test's database."""
    use_settings(load_settings({"DATABASE_URL": database_url, "JOURNAL_DIR": str(tmp_path)}))
    yield get_engine()
    use_settings(None)


def _tell(name: str, describe: object = encode_worker_state) -> None:
    """Reports as a worker of this name."""
    registration = WorkerRegistration(get_runtime(), name * 32)
    registration.describe = describe  # type: ignore[assignment]
    registration.update_if_due()


def _open_breaker(message: str) -> None:
    breakers = get_component(CircuitBreakers)
    for _ in range(THRESHOLDS["connect"]):
        breakers.record_failure("chutes", "m", "key-1", UpstreamUnreachable(message, code="upstream_unreachable"))


def test_a_breaker_that_one_worker_has_open_is_in_the_report_that_any_gives(engine: Engine) -> None:
    _tell("a")
    _open_breaker("No connection\0 with \ud83d sk-" + "x" * 30)
    _tell("b")
    _tell("c")
    get_component(CircuitBreakers).breakers.clear()
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_rest: statements.append(statement))
    report = select_workers_report()
    assert len(statements) == 2
    assert [worker.worker_id[0] for worker in report.data] == ["a", "b", "c"]
    assert [len(worker.state.breakers) for worker in report.data if worker.state] == [0, 1, 1]
    (shown,) = report.breakers
    assert (shown.provider, shown.kind, shown.model, shown.workers) == ("chutes", "connect", None, 2)
    assert (
        shown.reason is not None and shown.reason.startswith("No connection\ufffd with ?") and "xxx" not in shown.reason
    )
    wait = shown.next_probe_at - report.as_of
    assert timedelta(seconds=FIRST_PAUSE_S - 4) < wait <= timedelta(seconds=FIRST_PAUSE_S)
    first = report.data[0].state
    assert first is not None and first.journal == get_worker_state().journal and first.live_requests == 0


def test_a_worker_that_was_not_seen_lately_has_no_say_about_breakers(engine: Engine) -> None:
    _open_breaker("No connection.")
    _tell("a")
    with engine.begin() as connection:
        connection.execute(text("UPDATE worker SET last_seen_at = now() - interval '31 s'"))
    report = select_workers_report()
    assert report.breakers == [] and report.data[0].state is not None and len(report.data[0].state.breakers) == 1


def test_a_state_that_cannot_be_told_or_read_is_missing_and_the_worker_lives(
    engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> bytes:
        raise RuntimeError("a bug")

    _tell("a", fail)
    assert "worker_description_failed" in capfd.readouterr().err
    _tell("b", lambda: b'{"of": "another version"}')
    _tell("c", lambda: None)
    report = select_workers_report()
    assert [(worker.worker_id[0], worker.state) for worker in report.data] == [("a", None), ("b", None), ("c", None)]
