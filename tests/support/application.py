"""The Flask application of a test process, made only once, because each request reads the current settings."""

from __future__ import annotations

import functools

from flask import Flask

from app import create_app
from app.config import Settings, load_settings
from app.runtime import use_settings


def use_application(settings: Settings) -> Flask:
    """Sets this process's settings to `settings`, and returns the application."""
    app = _make_application()
    use_settings(settings)
    return app


@functools.cache
def _make_application() -> Flask:
    return create_app(load_settings({}))
