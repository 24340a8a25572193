"""The stored lists of providers and their changes. catalog_tables.py has the tables.

One worker at a time stores a list, by an advisory lock of the transaction, and a list that was fetched before the
stored one changes nothing. So it does not matter which workers of which hosts bring their lists, nor in which order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, text, union_all
from sqlalchemy.dialects.postgresql import insert as upsert

from app.db.catalog_tables import catalog_change, catalog_list, catalog_model
from app.db.rollup_tables import ALL_REQUESTS, model_usage, rollup_delta

# "cata" in ASCII. Held while a list is stored.
KEEP_LOCK = 0x63617461

# The most models that a statement reads or writes; this many take two milliseconds.
SLICE_MODELS = 500

# The known facts of a model; see catalog_tables.py.
Facts = dict[str, Any]


class KeptList(NamedTuple):
    """A provider's stored list: since when there is one, when it was fetched, and the digest of its entries."""

    first_at: datetime
    fetched_at: datetime
    version: str


class ModelChange(NamedTuple):
    """One change of a model; `before` is None if the model was not listed before, `after` if it is no longer listed."""

    model: str
    kind: str
    before: Facts | None
    after: Facts | None


class ChangeRow(NamedTuple):
    """A stored change, with its time and its provider."""

    id: int
    at: datetime
    provider: str
    model: str
    kind: str
    before: Facts | None
    after: Facts | None


class ChangeFilter(NamedTuple):
    """A filter for changes; None restricts nothing. `since` is excluded, so that a caller can pass its last one."""

    since: datetime | None = None
    provider: str | None = None
    model: str | None = None
    kinds: tuple[str, ...] | None = None


def try_lock_catalog(connection: Connection) -> bool:
    """Returns whether this transaction may store a list; False while another worker does so."""
    return bool(connection.execute(text(f"SELECT pg_try_advisory_xact_lock({KEEP_LOCK})")).scalar_one())


def select_kept_list(connection: Connection, provider: str) -> KeptList | None:
    """Returns the state of a provider's stored list; None without one."""
    columns = [catalog_list.c[name] for name in KeptList._fields]
    row = connection.execute(select(*columns).where(catalog_list.c.provider == provider)).one_or_none()
    return None if row is None else KeptList(*row)


def select_kept_models(connection: Connection, provider: str) -> dict[str, Facts]:
    """Returns the models of a provider's stored list: id → facts."""
    rows, kept, last = catalog_model.c, {}, ""
    while True:
        # In slices, because reading the facts of twenty thousand models at once would delay a worker's streams.
        query = select(rows.model, rows.facts).where(rows.provider == provider, rows.model > last).order_by(rows.model)
        found = {row[0]: row[1] for row in connection.execute(query.limit(SLICE_MODELS))}
        kept.update(found)
        if len(found) < SLICE_MODELS:
            return kept
        last = next(reversed(found))


def update_kept_list(
    connection: Connection,
    provider: str,
    *,
    fetched_at: datetime,
    version: str,
    changed: dict[str, Facts],
    removed: Sequence[str],
    changes: Iterable[ModelChange],
) -> None:
    """Stores the differences from the stored list, and the time and digest of the new one.

    Args:
        connection: a connection whose transaction holds the lock.
        provider: the provider of the list.
        fetched_at: the time of the fetch, which is the time of the changes.
        version: the digest of the list's entries.
        changed: the models that are new or have other facts, with these facts.
        removed: the ids of models that are no longer listed.
        changes: the changes to report.
    """
    state = {"provider": provider, "fetched_at": fetched_at, "version": version}
    kept = upsert(catalog_list).values(**state, first_at=fetched_at)
    connection.execute(kept.on_conflict_do_update(index_elements=["provider"], set_=state))
    models = list(changed.items())
    for begin in range(0, len(models), SLICE_MODELS):
        rows = [{"model": model, "facts": facts} for model, facts in models[begin : begin + SLICE_MODELS]]
        values = {"rows": msgspec.json.encode(rows).decode(), "provider": provider, "at": fetched_at}
        connection.execute(_UPSERT_MODELS, values)
    if removed:
        gone = catalog_model.c.model == func.any(list(removed))
        connection.execute(delete(catalog_model).where(catalog_model.c.provider == provider, gone))
    told = [{"at": fetched_at, "provider": provider, **change._asdict()} for change in changes]
    if told:
        connection.execute(insert(catalog_change), told)


_UPSERT_MODELS = text("""
    INSERT INTO catalog_model (provider, model, since, facts)
    SELECT :provider, model, :at, facts FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r (model text, facts jsonb)
    ON CONFLICT (provider, model) DO UPDATE SET facts = excluded.facts""")


def select_changes(
    connection: Connection, wanted: ChangeFilter, *, before_id: int | None, limit: int
) -> list[ChangeRow]:
    """Returns up to `limit` changes, newest first, that are older than the one with the id `before_id`."""
    columns = catalog_change.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.since is not None:
        conditions.append(columns.at > wanted.since)
    if wanted.provider is not None:
        conditions.append(columns.provider == wanted.provider)
    if wanted.model is not None:
        conditions.append(columns.model == wanted.model)
    if wanted.kinds is not None:
        conditions.append(columns.kind.in_(wanted.kinds))
    if before_id is not None:
        conditions.append(columns.id < before_id)
    shown = [columns[name] for name in ChangeRow._fields]
    rows = connection.execute(select(*shown).where(*conditions).order_by(columns.id.desc()).limit(limit))
    return [ChangeRow(*row) for row in rows]


class PricePoint(NamedTuple):
    """The facts of a model, and the time since when a list had them."""

    since: datetime
    facts: Facts


def select_price_points(connection: Connection, provider: str, model: str) -> list[PricePoint]:
    """Returns the stored history of a model's facts in a provider's lists, the oldest first.

    A time in which the model was not listed has no point, so the facts before it seem to continue.
    """
    kept = select_kept_list(connection, provider)
    if kept is None:
        return []
    columns = catalog_change.c
    of_model = [columns.provider == provider, columns.model == model]
    query = select(columns.at, columns.before, columns.after).where(*of_model).order_by(columns.at, columns.id)
    changes = connection.execute(query).all()
    points = [PricePoint(row.at, row.after) for row in changes if row.after is not None]
    if changes and changes[0].before is not None:
        points.insert(0, PricePoint(kept.first_at, changes[0].before))
    if not changes:
        rows = catalog_model.c
        query = select(rows.since, rows.facts).where(rows.provider == provider, rows.model == model)
        points = [PricePoint(*row) for row in connection.execute(query)]
    return points


def select_used_models(connection: Connection, provider: str, days: int) -> dict[str, int]:
    """Returns the models of a provider that served requests in the last UTC days, with the number of these requests."""
    usage, delta = model_usage.c, rollup_delta.c
    start = func.date_trunc("day", func.now() - timedelta(days=days), "UTC")
    folded = select(usage.model, usage.requests).where(
        usage.level == "day", usage.subject == ALL_REQUESTS, usage.gateway == provider, usage.start >= start
    )
    waiting = select(delta.model, delta.requests).where(delta.gateway == provider, delta.minute >= start)
    rows = union_all(folded, waiting).subquery()
    query = select(rows.c.model, func.sum(rows.c.requests)).where(rows.c.model != "").group_by(rows.c.model)
    return {row[0]: int(row[1]) for row in connection.execute(query)}
