"""The filters shared by Overview and Activity: a window of time, a provider, a key, a model, an endpoint."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from flask import g

from app.config import ALL_GATEWAYS
from app.errors import BadRequest, NotFound
from app.services.endpoints import ENDPOINTS
from app.services.keys import raise_if_no_key
from app.services.providers import PROVIDERS
from app.services.reports import DEFAULT_TIME_RANGE, TIME_RANGES, AskedWindow, Stats, select_stats
from app.web import one_of

RANGE_NAMES = {"1h": "1 hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days", "all": "All"}
ENDPOINT_PATHS = [endpoint.path for endpoint in ENDPOINTS]


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a query that selects the requests of a page. A filter that is None does not apply.

    Attributes:
        time_range: a window that ends now; not used if `start` is given.
        start, end: `from` (included) and `to` (excluded) in the query.
        key: the id of a gateway key; only operators may name another than their own.
        model: the full name of the model served or, if none was, of the model requested.
    """

    time_range: Annotated[str, one_of(TIME_RANGES)] = DEFAULT_TIME_RANGE
    start: datetime | None = msgspec.field(name="from", default=None)
    end: datetime | None = msgspec.field(name="to", default=None)
    gateway: Annotated[str, one_of(PROVIDERS, any_case=True)] | None = None
    key: str | None = None
    model: str | None = None
    endpoint: Annotated[str, one_of(ENDPOINT_PATHS)] | None = None

    def get_parameters(self) -> dict[str, str]:
        """Returns the parameters that select the same requests, except those with their usual value."""
        given: dict[str, Any] = {
            "time_range": self.time_range if self.start is None and self.time_range != DEFAULT_TIME_RANGE else None,
            "from": write_time(self.start),
            "to": write_time(self.end),
            "gateway": self.gateway,
            "key": self.key,
            "model": self.model,
            "endpoint": self.endpoint,
        }
        return {name: value for name, value in given.items() if value is not None}


def write_time(moment: datetime | None) -> str | None:
    """Returns a time in the form for a query; None for None."""
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def select_key_id(asked: str | None) -> str | None:
    """Returns the id of the key whose requests a page shows; None for all keys.

    Raises:
        NotFound: there is no such key, or the signed-in person may not see its requests.
    """
    if not g.key.is_operator:
        if asked not in {None, g.key.id}:
            raise NotFound("There is no such key among yours. Leave the filter out.")
        own: str = g.key.id
        return own
    if asked is not None:
        raise_if_no_key(asked)
    return asked


def select_window_stats(window: Window, key_id: str | None) -> Stats:
    """Returns the statistics of a window.

    Raises:
        BadRequest: it selects both a key and a model, for which there are no sums; or it is empty.
    """
    if window.model is not None and key_id is not None:
        raise BadRequest("There are no sums of one key and one model. Leave one of the two out.", param="model")
    asked = AskedWindow(time_range=window.time_range, start=window.start, end=window.end)
    return select_stats(
        window.gateway or ALL_GATEWAYS, asked, key_id=key_id, model=window.model, endpoint=window.endpoint
    )
