"""The files of Swagger UI, from the package flask-swagger-ui, whose own pages need inline scripts."""

from __future__ import annotations

import importlib.util
import time
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from app.yielding import PASS_S

_FILES = {"swagger-ui.css", "swagger-ui-bundle.js"}
# Compressing this much takes 2 ms, after which streams get their turn.
_SLICE_BYTES = 50_000


class Content(NamedTuple):
    """A file in its original form and compressed."""

    plain: bytes
    gzipped: bytes


def _find_directory() -> Path:
    # The package itself is not imported: it would only create a blueprint.
    spec = importlib.util.find_spec("flask_swagger_ui")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "dist"


_DIRECTORY = _find_directory()
SWAGGER_VERSION = (_DIRECTORY / "VERSION").read_text().strip()


def get_swagger_file(name: str) -> Content | None:
    """Returns a file that the page needs; None for any other."""
    return _read(name) if name in _FILES else None


@cache
def _read(name: str) -> Content:
    plain = (_DIRECTORY / name).read_bytes()
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    pieces = []
    for at in range(0, len(plain), _SLICE_BYTES):
        pieces.append(packer.compress(plain[at : at + _SLICE_BYTES]))
        time.sleep(PASS_S)
    return Content(plain, b"".join([*pieces, packer.flush()]))
