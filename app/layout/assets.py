"""`GET /assets/<digest>/<name>`: the style sheet and the script. Browsers keep them, since the digest is their own."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from flask import Blueprint, request

from app.config import ROOT
from app.errors import NotFound
from app.web import Response

bp = Blueprint("assets", __name__)

_DIRECTORIES = sorted((ROOT / "app").glob("*/static"))
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_HEADERS = {
    "cache-control": "public, max-age=31536000, immutable",
    "vary": "accept-encoding",
}


class _Asset(NamedTuple):
    """A file: its address below the root, its type, and its content, original and compressed."""

    path: str
    content_type: str
    content: bytes
    gzipped: bytes


@cache
def _read_assets() -> dict[str, _Asset]:
    """Returns name → file. All have one digest, so that a page never gets a script of another version."""
    files = [file for directory in _DIRECTORIES for file in sorted(directory.iterdir())]
    contents = {file.name: file.read_bytes() for file in files if file.suffix in _TYPES}
    digest = hashlib.sha256(b"\0".join(contents.values())).hexdigest()[:16]
    return {
        name: _Asset(f"assets/{digest}/{name}", _TYPES[Path(name).suffix], content, gzip.compress(content, mtime=0))
        for name, content in contents.items()
    }


def get_asset_paths() -> dict[str, str]:
    """Returns name → path below the root of the gateway."""
    return {name: asset.path for name, asset in _read_assets().items()}


@bp.get("/assets/<digest>/<name>")
def show_asset(digest: str, name: str) -> Response:
    """Returns a file; an old page may request the digest of an earlier version, and gets the present one."""
    asset = _read_assets().get(name)
    if asset is None:
        raise NotFound(f"There is no file {name[:100]!r}. Reload the page that needs it.")
    headers = dict(_HEADERS)
    if asset.path.split("/")[1] != digest:
        headers["cache-control"] = "no-store"
    if request.accept_encodings["gzip"] > 0:
        return Response(asset.gzipped, content_type=asset.content_type, headers=headers | {"content-encoding": "gzip"})
    return Response(asset.content, content_type=asset.content_type, headers=headers)
