"""`/docs/`: the documentation, and `/docs/api`: Swagger UI. Both are served by the gateway itself, without a key.

They have the contents of the repository, and nothing about this gateway except its version.
"""

from __future__ import annotations

import mimetypes
from typing import Any

from flask import Blueprint, request
from markupsafe import Markup

from app.config import ROOT
from app.docs_site.library import Library
from app.docs_site.pages import GROUPS, PAGES, Page, is_open_file
from app.docs_site.swagger import SWAGGER_VERSION, get_swagger_file
from app.errors import GatewayError, NotFound
from app.layout import PAGE_HEADERS, get_root, redirect_to, render_page
from app.runtime import get_component
from app.web import Response

bp = Blueprint("docs_site", __name__)

_MAX_QUERY_CHARACTERS = 200
# All other files are sent as plain text, so that no program in one can run under the site's name.
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


@bp.get("/docs")
def find_docs() -> Response:
    """Redirects to the first page."""
    return redirect_to("docs/")


@bp.get("/docs/")
def show_start() -> Response:
    """Returns the first page."""
    return _show(PAGES[""])


@bp.get("/docs/<slug>")
def show_page(slug: str) -> Response:
    """Returns a page."""
    page = PAGES.get(slug.removesuffix(".md"))
    if page is None or not page.slug:
        raise NotFound("There is no such page. The list at the side has all pages, and the search finds words in them.")
    return redirect_to(f"docs/{page.slug}") if slug != page.slug else _show(page)


@bp.get("/docs/search")
def search() -> Response:
    """Returns the sections with the words of `q`."""
    query = request.args.get("q", "").strip()[:_MAX_QUERY_CHARACTERS]
    return _render("docs_search.html", query=query, hits=get_component(Library).search(query))


@bp.get("/docs/files/<path:file>")
def show_file(file: str) -> Response:
    """Returns a file that a page shows or links to, such as deploy/nginx.conf."""
    if not is_open_file(file) or ".." in file.split("/"):
        raise NotFound("There is no such file here.")
    path = ROOT / file
    content_type = _TYPES.get(path.suffix, "text/plain; charset=utf-8")
    return Response(path.read_bytes(), content_type=content_type, headers=PAGE_HEADERS)


@bp.get("/docs/api")
def show_api() -> Response:
    """Returns Swagger UI for `/openapi.json`."""
    return _render("docs_api.html", current="docs/api", swagger=f"docs/api/{SWAGGER_VERSION}")


@bp.get("/docs/api/<version>/<name>")
def show_swagger_file(version: str, name: str) -> Response:
    """Returns a file of Swagger UI, which browsers may keep, because its address has the version."""
    content = get_swagger_file(name) if version == SWAGGER_VERSION else None
    if content is None:
        raise NotFound("There is no such file here.")
    headers = {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding"}
    content_type = f"{mimetypes.guess_type(name)[0]}; charset=utf-8"
    if request.accept_encodings["gzip"] > 0:
        return Response(content.gzipped, content_type=content_type, headers=headers | {"content-encoding": "gzip"})
    return Response(content.plain, content_type=content_type, headers=headers)


def _show(page: Page) -> Response:
    try:
        rendered = get_component(Library).get(page)
    except OSError as error:
        raise NotFound(
            f"{page.file} is missing beside the gateway's code, so this page cannot be shown. Run it from a clone."
        ) from error
    return _render("docs_page.html", page=page, rendered=rendered, body=Markup(rendered.html))


def _render(template: str, *, status: int = 200, **values: Any) -> Response:
    shown = {"current": "docs/", "groups": GROUPS, "page": None, "query": ""} | values
    return render_page(template, status=status, **shown)


@bp.errorhandler(GatewayError)
def _show_error(error: GatewayError) -> Response:
    """Returns an error as a page."""
    return _render("docs_error.html", status=error.status, message=error.message, up=get_root())
