"""Finds the route of a request: its possible targets, cached until a list or an alias changes."""

from __future__ import annotations

import time

from app.runtime import Component, Runtime
from app.services.aliases import Aliases
from app.services.endpoints import Endpoint, InferenceBody
from app.services.limits import Policy
from app.services.models import Catalogs, refresh_if_due
from app.services.routing.route import Asked, Route, make_route

# Callers choose the names, so the number of cached names is bounded. The users of a gateway use dozens.
_MAX_REMEMBERED = 4_096

# How often the hot path checks whether the TTL of a list has passed.
_REFRESH_CHECK_S = 1.0


class Routes(Component):
    """A cache of routes by the parts of a request that they depend on."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._catalogs = runtime.get(Catalogs)
        self._aliases = runtime.get(Aliases)
        self._routes: dict[Asked, Route] = {}
        self._generation = self._alias_generation = -1
        self._next_check_s = 0.0

    def find_route(self, endpoint: Endpoint, fields: InferenceBody, policy: Policy | None = None) -> Route:
        """Returns the targets that a request may be sent to.

        A `provider` that is a name decides, and so does a form that only one provider uses (`accounts/…` is
        Fireworks'); then there is one target. For all other cases see `make_route` and docs/routing.md.

        Args:
            endpoint: the endpoint that was called; only providers that serve it are targets.
            fields: the request's `model`, `models` and `provider`.
            policy: the limits of the caller's key; models that it does not allow cannot be targets.

        Raises:
            GatewayError: as for `make_route`.
        """
        now_s = time.monotonic()
        if now_s >= self._next_check_s:
            self._next_check_s = now_s + _REFRESH_CHECK_S
            refresh_if_due()
        generation, aliases = self._catalogs.get_generation(), self._aliases
        if self._generation != generation or self._alias_generation != aliases.generation:
            self._generation, self._alias_generation, self._routes = generation, aliases.generation, {}
        patterns = () if policy is None else policy.models
        asked = (endpoint.name, fields.model, fields.provider, fields.models, patterns)
        # A plain tuple, because it equals an `Asked` but is made without a call.
        route: Route | None = self._routes.get(asked)  # type: ignore[call-overload]
        return self._make(endpoint, Asked(*asked), policy) if route is None else route

    def _make(self, endpoint: Endpoint, asked: Asked, policy: Policy | None) -> Route:
        allows = policy.allows if policy is not None and asked.patterns else None
        route = make_route(endpoint, asked, allows, self.settings)
        self._remember(asked, route)
        return route

    def _remember(self, asked: Asked, route: Route) -> None:
        if self._generation != self._catalogs.get_generation():
            return  # A list was replaced in the meantime, so the route may be outdated.
        if len(self._routes) >= _MAX_REMEMBERED:
            self._routes.clear()
        self._routes[asked] = route
