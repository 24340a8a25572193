"""The Flask application of a test process, made once: which settings count is decided by each request."""

from __future__ import annotations

import functools

from flask import Flask

from app import create_app
from app.config import Settings, load_settings
from app.runtime import use_settings


def use_application(settings: Settings) -> Flask:
    """Makes `settings` those of this process, and returns the application."""
    app = _make_application()
    use_settings(settings)
    return app


@functools.cache
def _make_application() -> Flask:
    return create_app(load_settings({}))
