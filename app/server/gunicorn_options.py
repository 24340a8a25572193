"""Options of gunicorn's command line, or of GUNICORN_CMD_ARGS, with which the gateway would not work as promised."""

from __future__ import annotations

from typing import Any

from app.config import Settings

WORKER_CLASS = "app.server.worker_class.GatewayWorker"


def find_option_mistake(cfg: Any, settings: Settings) -> str | None:
    """Returns what is wrong with gunicorn's options and what to do; None if nothing is.

    Args:
        cfg: gunicorn's configuration, with the options of the command line.
        settings: the settings of the gateway.
    """
    if cfg.is_ssl:
        # The relay writes events to the client's plain socket and peeks at it to notice a disconnect.
        return "it serves plain HTTP only. Remove certfile, and let nginx terminate TLS (deploy/nginx.conf)."
    if cfg.worker_class_str != WORKER_CLASS:
        return f"its workers have a class of their own, not {cfg.worker_class_str}. Remove -k (--worker-class)."
    if cfg.preload_app:
        return "each worker must load the application after gevent has patched Python. Remove --preload."
    if cfg.graceful_timeout < settings.drain_timeout_s + 1:
        return (
            f"--graceful-timeout is {cfg.graceful_timeout} s, and must be at least one second above DRAIN_TIMEOUT"
            f" ({settings.drain_timeout_s:g} s). Remove it, and set GRACEFUL_TIMEOUT."
        )
    if 0 < cfg.timeout < cfg.graceful_timeout:
        return (
            f"--timeout is {cfg.timeout} s, and would end workers within their graceful timeout of"
            f" {cfg.graceful_timeout} s. Remove it."
        )
    return None
