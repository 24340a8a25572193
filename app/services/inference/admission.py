"""Limits how many requests this worker serves at once."""

from __future__ import annotations

from app.errors import Unavailable
from app.runtime import Component, Runtime, get_component
from app.services.inference.exchange import Exchange


class Admission(Component):
    """Counts the requests that are being served.

    Attributes:
        requests: the number of live requests.
        streams: the number of live requests that are streams for the client.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.requests = 0
        self.streams = 0

    def admit(self, exchange: Exchange) -> None:
        """Counts a request until it is finished, even if it is refused here.

        Raises:
            Unavailable: MAX_LIVE_REQUESTS requests are already being served.
        """
        self.requests += 1
        exchange.on_finish(self._release)
        if self.requests > self.settings.max_live_requests:
            message = "The gateway is serving its maximum number of requests. Retry in a moment."
            raise Unavailable(message, code="overloaded", retry_after_s=1)

    def _release(self) -> None:
        self.requests -= 1

    def count_stream(self, exchange: Exchange) -> None:
        """Counts an admitted request as a stream until it is finished."""
        self.streams += 1
        exchange.on_finish(self._release_stream)

    def _release_stream(self) -> None:
        self.streams -= 1


def get_live_requests() -> dict[bool, int]:
    """Returns how many requests are being served: whether they stream → their number."""
    admission = get_component(Admission)
    return {False: admission.requests - admission.streams, True: admission.streams}
