"""The HTTP API as a table: every blueprint, what it serves, and when it asks for a gateway key.

Routes are thin: they take a request apart, call a service and put its answer into HTTP. What they raise becomes the
one error shape in `app/__init__.py`.
"""

from __future__ import annotations

from typing import Literal

from flask import Blueprint

from app.routes import activity, catalog, chat, health, metrics, models, stats

# When a blueprint asks for a gateway key: always, never, or unless PUBLIC_STATS is true.
Access = Literal["key", "open", "public_stats"]

BLUEPRINTS: list[tuple[Blueprint, Access]] = [
    (chat.bp, "key"),  # POST /v1/chat/completions
    (models.bp, "key"),  # GET /v1/models, /v1/models/<id>
    (catalog.bp, "open"),  # GET /api/catalog/models, /api/catalog/model/<id>
    (stats.bp, "public_stats"),  # GET /api/catalog/gateway/<gateway>/stats
    (activity.bp, "key"),  # GET /api/activity, /api/activity/integrity, /api/usage
    (health.bp, "open"),  # GET /health, /ready
    (metrics.bp, "open"),  # GET /metrics
]
