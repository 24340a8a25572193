"""A running sandbox and the settings that point a gateway at it."""

from __future__ import annotations

from app.dev import sandbox_settings


class Sandbox:
    """A running sandbox.

    Attributes:
        url: its address, such as `http://127.0.0.1:4711`.
        settings: the settings that point a gateway at it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.settings = sandbox_settings(url)
