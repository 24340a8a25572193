"""Templates → HTML responses. Every address in a page is relative, so the gateway may be served below any prefix.

A proxy may strip the prefix without a trace, and nothing has to be configured: a page knows the depth of its own path,
and the browser knows the rest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlencode

import jinja2
from flask import request

from app.config import ROOT, provider_names
from app.layout.assets import get_asset_paths
from app.layout.formats import FILTERS
from app.layout.navigation import NAVIGATION
from app.run_file import SANDBOX_KEY
from app.runtime import get_settings
from app.web import NO_STORE, Response
from app.yielding import PAUSE_S

# No sources except our own files, no inline script or style, and no embedding in pages of others.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    **NO_STORE,
    "content-security-policy": _POLICY,
    # Under no-referrer, forms send `Origin: null`, which would be refused.
    "referrer-policy": "same-origin",
}

# How long pages are rendered between two pauses, in seconds.
_SLICE_S = 0.001

_DIRECTORIES = sorted(str(path) for path in (ROOT / "app").glob("*/templates"))

# The first page of a worker compiles the templates, with pauses in which the next page waits for the same.
_compiling = threading.Lock()


def _get_environment() -> jinja2.Environment:
    with _compiling:
        return _make_environment()


@cache
def _make_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_DIRECTORIES),
        autoescape=True,
        auto_reload=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.globals["address"] = make_address
    environment.globals["example_provider"] = provider_names()[0]
    # A worker compiles them for its first page. Each takes some milliseconds, and streams get their turn in between.
    for name in environment.list_templates():
        environment.get_template(name)
        time.sleep(PAUSE_S)
    return environment


def get_root() -> str:
    """Returns the relative path from the current request's address up to the root of the gateway, such as `../`."""
    return "../" * (request.path.count("/") - 1) or "./"


def make_address(path: str, parameters: Mapping[str, Any], **others: Any) -> str:
    """Returns a path with a query.

    Args:
        path: the path below the root of the gateway.
        parameters: the parameters of the query; None and empty ones are left out, and a tuple is written with commas.
        others: further parameters, which replace those of the same name.
    """
    pairs = {name: value for name, value in (dict(parameters) | others).items() if value not in (None, "", ())}
    texts = {name: ",".join(value) if isinstance(value, tuple) else value for name, value in pairs.items()}
    return path + ("?" + urlencode(texts) if texts else "")


def render_page(template: str, *, status: int = 200, headers: dict[str, str] | None = None, **values: Any) -> Response:
    """Returns a page.

    Args:
        template: the name of a file in a directory `templates` of a package.
        status: the status of the response.
        headers: further headers.
        values: values for the template. base.html reads `viewer`, the signed-in Key, and `current`, the path of the
            page in the navigation; each may be missing.
    """
    shared = {"root": get_root(), "assets": get_asset_paths(), "is_sandbox": _is_sandbox(), "navigation": NAVIGATION}
    html = _join_with_pauses(_get_environment().get_template(template).generate(shared | values))
    return Response(
        html.encode("utf-8", "replace"),
        status=status,
        content_type="text/html; charset=utf-8",
        headers=PAGE_HEADERS | (headers or {}),
    )


def render_text(template: str, **values: Any) -> str:
    """Returns a template as text for a file, without data of a request and without the gateway's address.

    Args:
        template: the name of a file in a directory `templates` of a package.
        values: values for the template.
    """
    return _join_with_pauses(_get_environment().get_template(template).generate(values))


def _join_with_pauses(pieces: Iterable[str]) -> str:
    """Returns the text of a page. It takes milliseconds, and streams get their turn in between."""
    joined = []
    paused_s = time.monotonic()
    for piece in pieces:
        joined.append(piece)
        if time.monotonic() - paused_s > _SLICE_S:
            time.sleep(PAUSE_S)
            paused_s = time.monotonic()
    return "".join(joined)


def redirect_to(path: str) -> Response:
    """Returns a redirect to a path below the root of the gateway, which the browser requests with GET."""
    location = get_root() + path
    return Response(b"", status=303, headers=NO_STORE | {"location": location})


def _is_sandbox() -> bool:
    """Returns whether the providers are the sandbox of `make run`, to which no real provider's key is sent."""
    return any(SANDBOX_KEY in getattr(get_settings(), f"{name}_api_key") for name in provider_names())
