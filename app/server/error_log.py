"""gunicorn's own log, with secrets redacted.

gunicorn's warnings quote what it could not parse. A client that puts its key into the request line or forgets a colon
would find it in the log.
"""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger

from app.config import get_secrets, load_settings
from app.logs import get_request_id, hide_secrets, line_budget, redact


class RedactingLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger, whose handlers redact whole lines: message, arguments and traceback."""

    def setup(self, cfg: Any) -> None:
        """Prepares the handlers; gunicorn calls this at the start and when it reloads its configuration."""
        hide_secrets(get_secrets(load_settings()))  # Also for the main process, which has no runtime.
        super().setup(cfg)
        for handler in (*self.error_log.handlers, *self.access_log.handlers):
            handler.setFormatter(_RedactingFormatter(handler.formatter))

    def warning(self, msg: str, *args: Any, **options: Any) -> None:
        """Writes a warning; of requests that are not valid HTTP not more than strangers may cause."""
        if not msg.startswith("Invalid request") or line_budget.take():
            super().warning(msg, *args, **options)


class _RedactingFormatter(logging.Formatter):
    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        request_id = get_request_id()
        line = redact(self._inner.format(record))
        return line if request_id is None else f"{line} (x-request-id: {request_id})"
