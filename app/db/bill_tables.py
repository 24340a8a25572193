"""The tables of providers' bills. A provider's newest answer for a day replaces the earlier one.

bill_day    one UTC day of a provider's bill: when it was fetched, and for which account
bill_line   one model on that day
bill_run    the last time that a provider was asked in the background, and the result
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Date, DateTime, Numeric, PrimaryKeyConstraint, Table, Text, func

from app.db.tables import metadata as metadata

bill_day = Table(
    "bill_day",
    metadata,
    Column("gateway", Text),
    Column("day", Date, comment="of UTC"),
    Column("fetched_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("account", Text, comment="whose bill it is, as the provider names it"),
    Column("has_costs", Boolean, nullable=False, comment="whether the provider said what the day cost"),
    Column("tag", Text, comment="the name by which this gateway's requests are told apart"),
    Column("tag_prompt_tokens", BigInteger, comment="those of them, of all models; NULL without a tag"),
    Column("tag_completion_tokens", BigInteger),
    PrimaryKeyConstraint("gateway", "day"),
)

bill_line = Table(
    "bill_line",
    metadata,
    Column("gateway", Text),
    Column("day", Date),
    Column("model", Text, comment="as the provider names it"),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_usd", Numeric, comment="NULL: the provider has not said"),
    Column("requests", BigInteger, comment="NULL: the provider bills no requests"),
    Column("differing_requests", BigInteger, comment="those of them whose recorded cost is another"),
    Column("prompt_price", Numeric, comment="the catalog's, in USD per token, when it was first fetched"),
    Column("cached_price", Numeric),
    Column("completion_price", Numeric),
    PrimaryKeyConstraint("gateway", "day", "model"),
)

bill_run = Table(
    "bill_run",
    metadata,
    Column("gateway", Text),
    Column("started_at", DateTime(timezone=True), nullable=False, comment="the last time that it was asked"),
    Column("ended_at", DateTime(timezone=True)),
    Column("error", Text, comment="why it failed; NULL if it did not"),
    PrimaryKeyConstraint("gateway"),
)
