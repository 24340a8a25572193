"""The shape of errors: that of the API of the called path, else of the client's API, else the gateway's own.

A shape belongs to a path and all paths below it, so it does not depend on whether a route was found.
"""

from __future__ import annotations

from typing import Protocol

from flask import current_app, request
from flask.sansio.app import App

from app.errors import GatewayError

_EXTENSION = "error_shapes"


class Shape(Protocol):
    """The shape of errors in an API; `services/endpoints` explains the attributes."""

    @property
    def request_id_header(self) -> str | None: ...

    @property
    def client_header(self) -> str | None: ...

    def make_body(self, error: GatewayError, request_id: str, /) -> bytes: ...

    def get_status(self, error: GatewayError, /) -> int: ...


def use_errors_below(app: App, path: str, shape: Shape) -> None:
    """Sets the shape of the errors of `path` and of all paths below it."""
    app.extensions.setdefault(_EXTENSION, {})[path] = shape


def find_shape(path: str | None) -> Shape | None:
    """Returns the shape of a path's errors; None for the gateway's own."""
    shapes: dict[str, Shape] = current_app.extensions.get(_EXTENSION, {})
    while path:
        if path in shapes:
            return shapes[path]
        path = path.rpartition("/")[0]
    return None


def find_shape_of_client() -> Shape | None:
    """Returns the error shape of the current request's client on paths outside any API, if its headers tell."""
    shapes: dict[str, Shape] = current_app.extensions.get(_EXTENSION, {})
    return next(
        (shape for shape in shapes.values() if shape.client_header and shape.client_header in request.headers), None
    )
