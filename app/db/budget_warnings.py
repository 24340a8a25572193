"""The table budget_warning: messages about budgets that LIMITS_WEBHOOK has not accepted yet.

The statement that marks a share as warned of also writes the message, so no message can be lost between the two. A
worker takes a message for some time and sends it. If the worker ends before it has deleted or postponed the message,
another worker takes it.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Engine, text

_INSERT = text("""
    WITH warned AS (
        UPDATE budget_period SET warned_percent = :percent
        WHERE id = :period AND warned_percent < :percent RETURNING id)
    INSERT INTO budget_warning (id, body) SELECT :id, :body FROM warned
    ON CONFLICT (id) DO UPDATE SET body = excluded.body, attempts = 0, due_at = now(), worker_id = NULL""")

# A message taken by a worker that has ended is taken again at once; one taken by a live worker, when its time is up.
_TAKE = text("""
    UPDATE budget_warning
    SET worker_id = :worker_id, attempts = attempts + 1, due_at = now() + :seconds * interval '1 second'
    WHERE id = (
        SELECT id FROM budget_warning AS waiting
        WHERE due_at <= now()
            OR EXISTS (SELECT FROM worker WHERE worker.worker_id = waiting.worker_id AND closed_how IS NOT NULL)
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id, body, attempts""")
_PUT_OFF = text("""
    UPDATE budget_warning SET worker_id = NULL, due_at = now() + :seconds * interval '1 second'
    WHERE id = :id AND worker_id = :worker_id""")
_DELETE = text("DELETE FROM budget_warning WHERE id = :id")
_DELETE_OLD = text("DELETE FROM budget_warning WHERE made_at < now() - :seconds * interval '1 second'")


class TakenWarning(NamedTuple):
    """A message for this worker to send: its id, its body in JSON, and the number of the attempt."""

    id: str
    body: str
    attempts: int


def insert_warning(engine: Engine, period_id: int, percent: int, *, message_id: str, body: str) -> bool:
    """Marks a share of a budget as warned of and adds the message; returns False if that was done before."""
    values = {"period": period_id, "percent": percent, "id": message_id, "body": body}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return connection.execute(_INSERT, values).rowcount == 1


def take_warning(engine: Engine, worker_id: str, seconds: float) -> TakenWarning | None:
    """Takes a due message for so many seconds, in which no other worker takes it; None if there is none."""
    with engine.begin() as connection:
        row = connection.execute(_TAKE, {"worker_id": worker_id, "seconds": seconds}).first()
    return None if row is None else TakenWarning(*row)


def update_warning_due(engine: Engine, worker_id: str, message_id: str, seconds: float) -> None:
    """Postpones a message that this worker has taken: the next worker takes it after so many seconds."""
    with engine.begin() as connection:
        connection.execute(_PUT_OFF, {"id": message_id, "worker_id": worker_id, "seconds": seconds})


def delete_warning(engine: Engine, message_id: str) -> None:
    """Deletes a message that was accepted or given up."""
    with engine.begin() as connection:
        connection.execute(_DELETE, {"id": message_id})


def delete_old_warnings(engine: Engine, seconds: float) -> None:
    """Deletes messages older than this, for instance from before LIMITS_WEBHOOK was unset for a while."""
    with engine.begin() as connection:
        connection.execute(_DELETE_OLD, {"seconds": seconds})
