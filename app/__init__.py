"""The gateway: OpenAI's API in front of Fireworks.ai, Featherless, DeepInfra and Chutes.

The map. Four ideas, and imports only go down:

    routes/     the HTTP API; `routes/__init__.py` lists all of it as a table
    openapi/    the same API as a document, for programs
    dashboard/  pages for people, below `/dashboard/`; `docs_site/` the documentation, `layout/` their shared parts
    services/   the decisions, one package per concern; `inference/pipeline.py` is the story of one request
    upstream/   the HTTP client for providers
    db/         SQL
    errors.py   every error that a caller can get, in one tree and one shape (limit_errors.py: those of limits)

Beside them: `web/` has the helpers for every HTTP request, `server/` the code that gunicorn calls, `config.py` the
settings (`setting_values.py` parses them, `env_file.py` reads their files), `logs.py` the log, `metrics.py` the
counters, `metric_labels.py` the bounds on their labels (`metric_numbers.py`: fast counting), `runtime.py` the state of
one process, `revisions.py` the existing migrations, `version.py` the version of this code, `database_session.py` the
options of connections, `cursors.py` the cursors of lists in pages, `shutdown.py` the drain, `run_file.py` the settings
of `make run` for `bin/gateway`, `snapshot_file.py` a host's copy of data from the database, `periodic.py` repeated
background work, `yielding.py` pauses in long loops, `json_structure.py` bounds on the cost of JSON, `lenient_json.py` a
reader for providers' JSON, `speedups.py` the compiled module, `cli/` the commands of `bin/gateway`, `doctor/` the
examinations of `bin/gateway doctor`, `dev/` the additions of `make run`, and `sandbox/` a local stand-in for the
providers. docs/design.md explains the design.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.config import Settings
from app.runtime import get_settings, use_settings

if TYPE_CHECKING:
    from flask import Flask


def create_app(settings: Settings | None = None) -> Flask:
    """Creates the application.

    Args:
        settings: the settings of this process; None reads them from the environment.

    Raises:
        SettingsError: a setting is malformed.
    """
    # Imported here, because gunicorn's main process imports `app.config` before gevent has patched anything, and so
    # that the sandbox and the Python client load only the modules that they need.
    from app import docs_site, openapi
    from app.cli import register_commands
    from app.dashboard import BLUEPRINTS as PAGES
    from app.layout import bp as ASSETS
    from app.routes import BLUEPRINTS
    from app.web import CHECKS, Application, set_up_http

    use_settings(settings or get_settings())
    app = Application(__name__, static_folder=None)
    app.url_map.merge_slashes = False  # Model ids contain slashes, and a redirect would be an HTML page.
    set_up_http(app)
    for blueprint, access in (*BLUEPRINTS, (openapi.bp, "open")):
        app.register_blueprint(blueprint)
        app.before_request_funcs.setdefault(blueprint.name, []).extend(CHECKS[access])
    for blueprint in (*PAGES, docs_site.bp, ASSETS):
        app.register_blueprint(blueprint)
    register_commands(app)
    return app
