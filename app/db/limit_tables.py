"""The tables of limits: the limits of each subject, the grants to workers, and the charges.

    subject         whose requests a limit counts: a holder of keys, a group of holders, or the whole gateway
    budget          an amount that the requests of a subject may cost in a window of time
    budget_period   one window of a budget, and how much of it workers have been granted
    budget_lease    how much of a period one worker has drawn
    budget_charge   the charges of one worker's requests to a period
    rate_pot        requests or tokens granted to a subject in each half second of the last minute
    slot_lease      how many concurrent requests of a subject a worker may serve
    budget_warning  messages about budgets that LIMITS_WEBHOOK has not accepted yet
    audit_event     all changes and who made them

An amount is in the unit of its budget: USD, tokens or requests. `drawn` and the charges are in tables of their own,
because a shipping statement locks the charges for tens of milliseconds, and draws must not wait for it.

rate_pot and slot_lease are unlogged: they cover only the last minute, and a crash of the database may empty them.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Numeric,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.db.tables import metadata as metadata
from app.db.tables import one_of

SUBJECT_KINDS = ("holder", "group", "gateway")
UNITS = ("usd", "tokens", "requests")
RATE_KINDS = ("requests", "tokens")

# The id of the subject that stands for the whole gateway. A migration creates it; there is no other of its kind.
GATEWAY_ID = "gateway"

# All list prices are multiples of 10^-12 USD.
AMOUNT = Numeric(30, 12)

# The half seconds that a rate is counted over. A permit is used within half a second, so the uses of any 60 s were
# granted within 60.5 s, which overlap at most this many half seconds.
RATE_SLOTS = 122


subject = Table(
    "subject",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("group_id", Text, ForeignKey("subject.id", name="fk_subject_group_id"), comment="of a holder"),
    Column("models", ARRAY(Text), nullable=False, server_default="{}", comment="patterns of provider/id; empty is all"),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("concurrent", Integer, comment="requests at once"),
    Column("max_output_tokens", BigInteger, comment="the most that a request may ask for"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    UniqueConstraint("kind", "name", name="uq_subject_kind"),
    one_of("kind", SUBJECT_KINDS),
    CheckConstraint("kind = 'holder' OR group_id IS NULL", name="group_id"),
    *[
        CheckConstraint(f"{name} > 0", name=name)
        for name in ("requests_per_minute", "tokens_per_minute", "concurrent", "max_output_tokens")
    ],
)

budget = Table(
    "budget",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("subject_id", Text, ForeignKey("subject.id", name="fk_budget_subject_id"), nullable=False),
    Column("unit", Text, nullable=False),
    Column("amount", AMOUNT, nullable=False),
    Column("time_window", Text, nullable=False, comment="see app/services/limits/periods.py"),
    Column("timezone", Text, nullable=False, server_default="UTC"),
    Column("first_day", SmallInteger, nullable=False, server_default="1", comment="of a week (1 is Monday) or a month"),
    Column("warn_percents", ARRAY(SmallInteger), nullable=False, server_default="{}"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("ended_at", DateTime(timezone=True)),
    one_of("unit", UNITS),
    CheckConstraint("amount >= 0", name="amount"),
    CheckConstraint("first_day BETWEEN 1 AND 28", name="first_day"),
)

# The active budget; an ended one stays for the charges of its periods.
Index(
    "uq_budget_subject_id_unit_time_window",
    budget.c.subject_id,
    budget.c.unit,
    budget.c.time_window,
    unique=True,
    postgresql_where=budget.c.ended_at.is_(None),
)

budget_period = Table(
    "budget_period",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("budget_id", BigInteger, ForeignKey("budget.id", name="fk_budget_period_budget_id"), nullable=False),
    Column("start_at", DateTime(timezone=True), nullable=False),
    Column("end_at", DateTime(timezone=True), comment="NULL if it never ends"),
    Column("extra", AMOUNT, nullable=False, server_default="0", comment="raises the amount in this period alone"),
    Column("granted", AMOUNT, nullable=False, server_default="0", comment="the sum of drawn over all workers"),
    Column("recalled_at", DateTime(timezone=True), comment="when a draw last found too little"),
    Column("warned_percent", SmallInteger, nullable=False, server_default="0"),
    UniqueConstraint("budget_id", "start_at", name="uq_budget_period_budget_id"),
)

budget_lease = Table(
    "budget_lease",
    metadata,
    Column("period_id", BigInteger, ForeignKey("budget_period.id", name="fk_budget_lease_period_id"), nullable=False),
    Column("worker_id", Text, nullable=False, comment="as in worker"),
    Column("version", BigInteger, nullable=False, comment="of the newest draw, which counts up"),
    Column("drawn", AMOUNT, nullable=False),
    Column("closed", Boolean, nullable=False, server_default="false", comment="the worker has ended"),
    Column(
        "kept",
        Boolean,
        nullable=False,
        server_default="false",
        comment="closed without giving the rest back, because charges may be missing",
    ),
    Column(
        "spent",
        AMOUNT,
        nullable=False,
        server_default="0",
        comment="by requests that have ended, as the worker last said; their charges may be under way",
    ),
    PrimaryKeyConstraint("period_id", "worker_id"),
)

budget_charge = Table(
    "budget_charge",
    metadata,
    Column("period_id", BigInteger, nullable=False),
    Column("worker_id", Text, nullable=False),
    Column("exact", AMOUNT, nullable=False, server_default="0"),
    Column("estimated", AMOUNT, nullable=False, server_default="0"),
    Column("ceiling", AMOUNT, nullable=False, server_default="0", comment="of requests whose use is not known"),
    Column("requests", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("period_id", "worker_id"),
)

rate_pot = Table(
    "rate_pot",
    metadata,
    Column("subject_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("slots", ARRAY(BigInteger), nullable=False, comment="a ring of RATE_SLOTS half seconds"),
    Column("head", BigInteger, nullable=False, comment="the newest half second, counted from 1970"),
    PrimaryKeyConstraint("subject_id", "kind"),
    one_of("kind", RATE_KINDS),
    prefixes=["UNLOGGED"],
)

slot_lease = Table(
    "slot_lease",
    metadata,
    Column("subject_id", Text, nullable=False),
    Column("worker_id", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("held", Integer, nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    PrimaryKeyConstraint("subject_id", "worker_id"),
    prefixes=["UNLOGGED"],
)

budget_warning = Table(
    "budget_warning",
    metadata,
    Column("id", Text, primary_key=True, comment="of the message"),
    Column("body", Text, nullable=False, comment="the message, in JSON"),
    Column("made_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.now(), comment="of the next attempt"),
    Column("attempts", Integer, nullable=False, server_default="0", comment="that were begun"),
    Column("worker_id", Text, comment="who sends it now; NULL while nobody does"),
    Index("ix_budget_warning_due_at", "due_at"),
)

audit_event = Table(
    "audit_event",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("actor", Text, nullable=False, comment="the id of an operator's key, or cli:<user of the machine>"),
    Column("action", Text, nullable=False, comment="as in key.create"),
    Column("object", Text, nullable=False, comment="what was changed, as in key:<id>"),
    Column("before", JSONB(none_as_null=True)),
    Column("after", JSONB(none_as_null=True)),
)

Index("ix_audit_event_at", audit_event.c.at)
Index("ix_audit_event_object_at", audit_event.c.object, audit_event.c.at)
