"""How a route answers with JSON."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Response

# Costs are numbers, as counts are, and keep all their digits; a price of the catalog is a text already.
_encode = msgspec.json.Encoder(decimal_format="number").encode


def json_answer(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Returns `value` as a JSON answer."""
    return Response(_encode(value), status=status, content_type="application/json", headers=headers)
