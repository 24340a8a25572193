"""The HTTP API as a table: every blueprint, what it serves, and whether it asks for a gateway key.

Routes are thin: they take a request apart, call a service and put its answer into HTTP. What they raise becomes the
one error shape in `app/__init__.py`.
"""

from __future__ import annotations

from flask import Blueprint

from app.routes import catalog, chat, health, metrics, models

# blueprint, whether a key is needed
BLUEPRINTS: list[tuple[Blueprint, bool]] = [
    (chat.bp, True),  # POST /v1/chat/completions
    (models.bp, True),  # GET /v1/models, /v1/models/<id>
    (catalog.bp, False),  # GET /api/catalog/models, /api/catalog/model/<id>
    (health.bp, False),  # GET /health, /ready
    (metrics.bp, False),  # GET /metrics
]
