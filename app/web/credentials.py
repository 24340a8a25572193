"""The key sent with a request."""

from __future__ import annotations

from app.web.application import get_environ


def get_authorization() -> str | None:
    """Returns the `Authorization` of the current request or, if that is not a bearer token, `x-api-key` in its form.

    Anthropic's SDKs and tools for Azure send the key in `x-api-key`. A bearer token takes precedence, because an
    `x-api-key` beside it is a key for something else.
    """
    # Read from the environ, because werkzeug's headers take ten times as long.
    environ = get_environ()
    authorization: str | None = environ.get("HTTP_AUTHORIZATION")
    if authorization is not None and authorization[:7].lower() == "bearer ":
        return authorization
    api_key = environ.get("HTTP_X_API_KEY")
    return f"Bearer {api_key}" if api_key else authorization


def has_credentials() -> bool:
    """Returns whether the current request has a header for a key, even an empty one.

    A caller who sends such a header wants to be identified, so a mistake in it must not make the caller anonymous.
    """
    environ = get_environ()
    return "HTTP_AUTHORIZATION" in environ or "HTTP_X_API_KEY" in environ
