"""The HTTP API as a table: every blueprint, its paths, and whether it requires a gateway key.

A route reads the request, calls a service and writes the response. Its errors are sent in the shape of
`app/errors.py`.
"""

from __future__ import annotations

from flask import Blueprint

from app.routes import (
    activity,
    aliases,
    bill,
    budgets,
    catalog,
    catalog_changes,
    diagnostics,
    groups,
    health,
    holders,
    inference,
    keys,
    metrics,
    models,
    offers,
    own_key,
    stats,
    token_count,
    workers,
)
from app.routes.inference import make_view, read_body
from app.web import Access

BLUEPRINTS: list[tuple[Blueprint, Access]] = [
    (inference.bp, "key"),  # POST /v1/chat/completions, /v1/messages, …: a view for each row of ENDPOINTS
    (token_count.bp, "key"),  # POST /v1/messages/count_tokens
    (models.bp, "key"),  # GET /v1/models, /v1/models/<id>
    (own_key.bp, "key"),  # GET /v1/key, /api/key
    (catalog.bp, "open"),  # GET /api/catalog/models, /api/catalog/model/<id>
    (catalog_changes.bp, "public_stats"),  # GET /api/catalog/changes
    (offers.bp, "public_stats"),  # GET /api/catalog/model/<id>/endpoints
    (stats.bp, "public_stats"),  # GET /api/catalog/gateway/<gateway>/stats
    (activity.bp, "key"),  # GET /api/activity, /api/activity/<id>, /api/activity/integrity or retries, /api/usage
    (keys.bp, "operators_key"),  # /api/keys, /api/keys/<id>, POST /api/keys/<id>/rotate
    (holders.bp, "operators_key"),  # /api/holders, /api/holders/<holder>
    (groups.bp, "operators_key"),  # /api/groups, /api/groups/<group>, /api/limits
    (budgets.bp, "operators_key"),  # /api/budgets, /api/budgets/<id>, POST /api/budgets/<id>/raise, GET /api/audit
    (bill.bp, "operators_key"),  # GET /api/bill/reconciliation
    (workers.bp, "operators_key"),  # GET /api/workers
    (aliases.bp, "operators_key"),  # /api/aliases, /api/aliases/<name>
    (health.bp, "open"),  # GET /health, /ready, /, /api/hello
    (metrics.bp, "operator"),  # GET /metrics
    (diagnostics.bp, "operators_key"),  # GET /api/diagnostics/stream
]

__all__ = ["BLUEPRINTS", "make_view", "read_body"]
