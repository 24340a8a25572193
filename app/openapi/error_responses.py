"""The responses that report errors, made from the tree of errors: one for each status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Importing it adds its classes to the tree.
import app.limit_errors  # noqa: F401
from app.errors import ClientGone, GatewayError
from app.openapi.schemas import describe

# Statuses without a class of their own: they are chosen where errors are raised.
_FURTHER = {
    414: ("invalid_request_error", "The request line has more than 4,094 bytes: shorten the URL."),
    422: (
        "invalid_request_error",
        "The provider refused this request, or an `Idempotency-Key` was used with another body.",
    ),
    431: ("invalid_request_error", "The headers are too large."),
    529: ("overloaded_error", "An overload: Anthropic's status for 503."),
}


def find_errors(root: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    """Yields the classes of all errors that are sent."""
    if root is not ClientGone:
        yield root
    for child in root.__subclasses__():
        yield from find_errors(child)


def find_error_types() -> list[str]:
    """Returns the values of `error.type`, in the order of the tree."""
    return list(dict.fromkeys(error.type for error in find_errors()))


def make_error_responses(names: dict[str, str]) -> dict[str, Any]:
    """Returns response name → response, for each status of an error in each form.

    Args:
        names: prefix of a response's name → name of the schema for its body.
    """
    texts: dict[int, list[str]] = {status: [f"`{kind}`: {text}"] for status, (kind, text) in _FURTHER.items()}
    for error in find_errors():
        texts.setdefault(error.status, []).append(f"`{error.type}`: {describe(error)}")
    return {
        f"{prefix}{status}": {
            "description": "\n\n".join(lines),
            "headers": make_error_headers(status),
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
        }
        for prefix, schema in names.items()
        for status, lines in sorted(texts.items())
    }


def make_error_headers(status: int) -> dict[str, Any]:
    """Returns the headers of the response to a request that failed with this status."""
    names = ["x-request-id"]
    if status in {402, 429, 503, 529}:
        names += ["retry-after", "x-should-retry"]
    if status in {402, 429}:
        names.append("x-gateway-limit")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
