"""The tables of providers' lists: their models and prices now, and the history of changes.

    catalog_list    when each provider's list was first stored, and when last
    catalog_model   the models of these lists, with their known facts
    catalog_change  added, removed and changed models

The facts of a model are a JSON object: `prompt`, `completion` and `input_cache_read` are decimal strings in USD per
token, `price_source` says where these are from, `context_length` and `max_output_tokens` are numbers of tokens, and
`expiration_date` is a date in ISO 8601. Unknown facts are absent.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Identity, Index, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from app.db.tables import metadata as metadata

CHANGE_KINDS = ("added", "removed", "price", "context", "deprecation")

catalog_list = Table(
    "catalog_list",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("first_at", DateTime(timezone=True), nullable=False, comment="of the first list that was kept"),
    Column("fetched_at", DateTime(timezone=True), nullable=False, comment="of the list that is kept"),
    Column("version", Text, nullable=False, comment="a digest of its entries"),
)

catalog_model = Table(
    "catalog_model",
    metadata,
    Column("provider", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("since", DateTime(timezone=True), nullable=False, comment="since when it is listed"),
    Column("facts", JSONB(none_as_null=True), nullable=False, comment="see app/db/catalog_tables.py"),
)

catalog_change = Table(
    "catalog_change",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("before", JSONB(none_as_null=True), comment="the facts before; NULL if the model was not listed"),
    Column("after", JSONB(none_as_null=True), comment="the facts since; NULL if it is not listed any more"),
    CheckConstraint(f"kind IN ({', '.join(map(repr, CHANGE_KINDS))})", name="kind"),
)

Index("ix_catalog_change_at", catalog_change.c.at)
Index("ix_catalog_change_provider_model", catalog_change.c.provider, catalog_change.c.model)
