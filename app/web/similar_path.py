"""Finds the path that a caller meant by an unknown one: most have `/v1` twice, not at all, or behind a prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator

from werkzeug.routing import Map

# Each candidate is matched against all routes, in time proportional to its length.
_MAX_CHARACTERS = 300

_SLASHES = re.compile("/{2,}")


def find_similar_path(routes: Map, path: str) -> str | None:
    """Returns the most similar path that exists, or None.

    Args:
        routes: the routes of the application.
        path: the path of the request.
    """
    if len(path) > _MAX_CHARACTERS:
        return None
    adapter = routes.bind("gateway")
    return next((each for each in _make_candidates(path) if adapter.allowed_methods(each)), None)


def _make_candidates(path: str) -> Iterator[str]:
    plain = _SLASHES.sub("/", path).rstrip("/")
    for form in dict.fromkeys([plain, plain.lower()]):
        yield form  # Fixes an extra slash or capitals.
        if "/v1/" in form:
            yield "/v1/" + form.rpartition("/v1/")[2]
        if "/api/" in form:
            yield "/api/" + form.rpartition("/api/")[2]
        yield "/v1" + form
        yield "/api" + form
        # An Azure deployment's path ends in /chat/completions, too.
        parts = form.split("/")
        yield "/v1/" + "/".join(parts[-2:])
        yield "/v1/" + parts[-1]
