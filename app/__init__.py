"""The gateway: OpenAI's API in front of Fireworks.ai, Featherless, DeepInfra and Chutes.

The map. Four ideas, and imports only go down:

    routes/     the HTTP API; `routes/__init__.py` lists all of it as a table
    openapi/    the same API as a document, for programs
    dashboard/  pages for people, below `/dashboard/`; `docs_site/` the documentation, `layout/` what they share
    services/   the decisions, one package per concern; `inference/pipeline.py` is the story of one request
    upstream/   the HTTP client for providers
    db/         SQL
    errors.py   every error that a caller can get, in one tree and one shape (limit_errors.py: those of limits)

Beside them: `web/` has the helpers that every HTTP request goes through, `server/` what gunicorn calls, `config.py` the
settings (`setting_values.py` parses them, `env_file.py` reads their files), `logs.py` the log, `metrics.py` the
counters, `metric_labels.py` how their labels are bounded (`metric_numbers.py`: how they are counted fast), `runtime.py`
the state of one process, `revisions.py` the migrations that there are, `version.py` which code this is,
`database_session.py` what a connection begins with, `cursors.py` where a page of a list ends, `shutdown.py` the drain,
`run_file.py` what `make run` tells `bin/gateway`, `snapshot_file.py` what a host keeps of the database, `yielding.py`
pauses in long loops, `json_structure.py` what bounds the cost of JSON, `lenient_json.py` how a provider's JSON is read,
`speedups.py` finds what is compiled, `cli/` the commands of `bin/gateway`, `doctor/` what `bin/gateway doctor`
examines, `dev/` what `make run` adds, and `sandbox/` a local stand-in for the providers.
docs/design.md explains the design.
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
        settings: the settings of this process; None reads them from the environment.

    Raises:
        SettingsError: a setting is malformed.
    """
    # Imported here, because gunicorn's main process imports `app.config` before gevent has patched anything, and so
    # that the sandbox and the Python client load only what they use.
    from app import docs_site, openapi
    from app.cli import register_commands
    from app.dashboard import BLUEPRINTS as PAGES
    from app.layout import bp as ASSETS
    from app.routes import BLUEPRINTS
    from app.web import CHECKS, Application, set_up_http

    use_settings(settings or get_settings())
    app = Application(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # Model ids contain slashes, and a redirect would be a page of HTML.
    set_up_http(app)
    for blueprint, access in (*BLUEPRINTS, (openapi.bp, "open")):
        app.register_blueprint(blueprint)
        app.before_request_funcs.setdefault(blueprint.name, []).extend(CHECKS[access])
    for blueprint in (*PAGES, docs_site.bp, ASSETS):
        app.register_blueprint(blueprint)
    register_commands(app)
    return app
