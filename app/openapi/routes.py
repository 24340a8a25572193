"""`GET /openapi.json`: the API as a document, for people, generated clients and tests.

It needs no key: it says no more than the README, and programs that read it, such as Swagger UI in a browser, send none.
"""

from __future__ import annotations

import hashlib

import msgspec
from flask import Blueprint, current_app

from app.openapi.document import make_document
from app.runtime import Component, Runtime, get_component
from app.services.models import Rendered
from app.web import Response, conditional_response

bp = Blueprint("openapi", __name__)


class _Document(Component):
    """The document of this process, created at its first use."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        body = msgspec.json.encode(make_document(current_app))
        self.rendered = Rendered(f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"', body)


@bp.get("/openapi.json")
def show_document() -> Response:
    """Returns this document: OpenAPI 3.1, made from the code that checks requests."""
    return conditional_response(get_component(_Document).rendered)
