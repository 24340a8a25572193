"""The gateway: OpenAI's API in front of Fireworks.ai, Featherless, DeepInfra and Chutes.

The map. Four ideas, and imports only go down:

    routes/     HTTP in and out; `routes/__init__.py` is the whole API as a table
    services/   what is decided, a package for each concern; `inference/pipeline.py` is the story of one request
    upstream/   the HTTP client that speaks to providers
    db/         SQL
    errors.py   every error a caller can meet, in one tree and one shape

Beside them: `web/` is what every HTTP request goes through, `server/` what gunicorn calls, `config.py` reads the
settings, `logs.py` writes one line a request, `metrics.py` counts, `cli/` holds the `flask` commands, `dev/` is what
`make run` adds, and `sandbox/` is a local Fireworks to try things against. docs/design.md tells why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.config import Settings
from app.runtime import get_settings, use_settings

if TYPE_CHECKING:
    from flask import Flask


def create_app(settings: Settings | None = None) -> Flask:
    """Makes the application.

    Args:
        settings: those to use in this process; read from the environment when not given.

    Raises:
        SettingsError: a setting is malformed.
    """
    # Imported here, because gunicorn's main process reads `app.config` before gevent has patched anything, and so that
    # the sandbox and the Python client load only what they use.
    from app.cli import register_commands
    from app.routes import BLUEPRINTS
    from app.web import CHECKS, Application, set_up_http

    use_settings(settings or get_settings())
    app = Application(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # Model ids hold slashes, and a redirect would be a page of HTML.
    set_up_http(app)
    for blueprint, access in BLUEPRINTS:
        app.register_blueprint(blueprint)
        app.before_request_funcs.setdefault(blueprint.name, []).extend(CHECKS[access])
    register_commands(app)
    return app
