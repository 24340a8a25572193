"""Asks a provider, in the background, whether it refuses the gateway's own key or account.

Callers choose what is sent to models, but they have no influence on the response to the gateway's own request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from app.errors import GatewayError, UpstreamAuthenticationFailed, UpstreamError, UpstreamSuspended
from app.logs import log_event
from app.runtime import Component, Runtime
from app.services.providers import PROVIDERS, Provider, ProviderClients

# The shortest pause between two probes of a provider, and the longest wait for its response, in seconds.
PAUSE_S = 30.0
_TIMEOUT_S = 10.0


class AccountProbes(Component):
    """Sends the request `Provider.probe`, one at a time for each provider."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._clients = runtime.get(ProviderClients)
        self._next_s: dict[str, float] = {}

    def can_ask(self, name: str) -> bool:
        """Returns whether a provider has a request that its refusals of one caller's models do not affect."""
        provider = PROVIDERS.get(name)
        return provider is not None and provider.probe is not None

    def start(self, name: str, on_refused: Callable[[str, UpstreamError], None]) -> None:
        """Asks a provider unless it has no such request or was asked a moment ago; returns at once.

        Args:
            name: the provider.
            on_refused: called with the provider and its error if it refuses the gateway's key or account.
        """
        provider, now_s = PROVIDERS.get(name), time.monotonic()
        if provider is None or provider.probe is None or now_s < self._next_s.get(name, 0.0):
            return
        self._next_s[name] = now_s + PAUSE_S
        threading.Thread(target=self._run, args=(provider, on_refused), name=f"probe-{name}", daemon=True).start()

    def _run(self, provider: Provider, on_refused: Callable[[str, UpstreamError], None]) -> None:
        assert provider.probe is not None
        try:
            provider.probe(self._clients.get_client(provider), _TIMEOUT_S)
        except UpstreamError as error:
            if _is_refusal(error):
                on_refused(provider.name, error)
        except GatewayError:
            pass  # The provider is not configured.
        except Exception as error:
            log_event("account_probe_failed", level="error", error=error, provider=provider.name)


def _is_refusal(error: UpstreamError) -> bool:
    # A 403 may mean only that the key has no permission for this path.
    is_key_refused = isinstance(error, UpstreamAuthenticationFailed) and error.upstream_status == 401
    return is_key_refused or isinstance(error, UpstreamSuspended)
