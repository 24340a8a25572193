"""gunicorn's own log, in the format of the gateway's log and with secrets redacted.

gunicorn's warnings quote input that it could not parse. A client that puts its key into the request line or forgets a
colon would find the key in the log.
"""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger

from app.config import get_secrets, load_settings
from app.logs import get_request_id, hide_secrets, line_budget, log_event, redact

# Beginning of gunicorn's message → event of the line.
_EVENTS = {
    "WORKER TIMEOUT": "worker_timed_out",
    "Worker (pid:%s) was sent": "worker_killed",
    "Worker (pid:%s) exited": "worker_failed",
    "Worker graceful timeout": "worker_drain_cut",
    "Booting worker": "worker_forked",
    "Worker exiting": "worker_exited",
    "Invalid request": "request_parsing_failed",
    "Error handling request": "request_handling_failed",
}
_OTHER_EVENT = "gunicorn_reported"
# Messages that repeat lines of life_log.py. They have the level info, which gunicorn writes with --log-level only.
_SAID = ("Starting gunicorn", "Listening at", "Using worker", "Handling signal", "Hang up", "Shutting down")


class RedactingLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger.

    Messages for standard error become lines in the format of `log_event`. Handlers that the operator has configured,
    such as one for a file, write gunicorn's own lines, redacted as a whole: message, arguments and traceback.
    """

    def setup(self, cfg: Any) -> None:
        """Prepares the handlers; gunicorn calls this at the start and when it reloads its configuration."""
        hide_secrets(get_secrets(load_settings()))  # The main process needs this too, because it has no runtime.
        super().setup(cfg)
        if cfg.errorlog == "-" and (handler := self._get_gunicorn_handler(self.error_log)) is not None:
            self.error_log.removeHandler(handler)
            self.error_log.addHandler(_EventHandler())
        for handler in (*self.error_log.handlers, *self.access_log.handlers):
            handler.setFormatter(_RedactingFormatter(handler.formatter))

    def info(self, msg: str, *args: Any, **options: Any) -> None:
        """Writes messages that the gateway's own lines do not repeat."""
        if not msg.startswith(_SAID):
            super().info(msg, *args, **options)

    def warning(self, msg: str, *args: Any, **options: Any) -> None:
        """Writes a warning; for requests that are not valid HTTP, only as many as the budget for strangers allows."""
        if not msg.startswith("Invalid request") or line_budget.take():
            super().warning(msg, *args, **options)


class _EventHandler(logging.Handler):
    # This attribute marks gunicorn's own handlers, which it removes when it sets them up again.
    _gunicorn = True

    def emit(self, record: logging.LogRecord) -> None:
        template = str(record.msg)
        event = next((name for start, name in _EVENTS.items() if template.startswith(start)), _OTHER_EVENT)
        level = "error" if record.levelno >= logging.ERROR else record.levelname.lower()
        error = record.exc_info[1] if record.exc_info else None
        request_id = get_request_id()
        more = {} if request_id is None else {"request_id": request_id}
        log_event(event, level=level, error=error, message=record.getMessage(), **more)


class _RedactingFormatter(logging.Formatter):
    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        request_id = get_request_id()
        line = redact(self._inner.format(record))
        return line if request_id is None else f"{line} (x-request-id: {request_id})"
