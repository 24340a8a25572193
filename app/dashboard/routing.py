"""Routing: the providers of a model or an alias, with prices and recent quality, and which are being avoided."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
from flask import g

from app.config import MAX_NAME_CHARACTERS
from app.dashboard.frame import pages, show
from app.errors import GatewayError
from app.runtime import get_component, get_settings
from app.services.aliases import Alias, Aliases, Candidate, find_alias, find_candidates
from app.services.keys import KeySnapshot
from app.services.models import Allows, Served
from app.services.offers import Offer, find_offered_model, get_offers
from app.services.providers import get_configured_providers
from app.services.routing import get_avoided_s
from app.web import Response, read_query


class RoutingQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The model or alias to look up."""

    model: Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARACTERS)] = ""


class _Row(NamedTuple):
    """A target.

    Attributes:
        provider, model: the target.
        offer: the facts from the provider's list and the measurements; None if no list has the model.
        avoided_s: the seconds for which the answering worker still avoids it; None if it does not.
        weight: its share relative to the others'; None without one.
    """

    provider: str
    model: str
    offer: Offer | None
    avoided_s: float | None
    weight: float | None = None


class _ShownAlias(NamedTuple):
    alias: Alias
    rows: list[_Row]


@pages.get("/dashboard/routing")
def show_routing() -> Response:
    """Shows the aliases that the key may use, and the providers of the model in the query."""
    query = read_query(RoutingQuery)
    policy = get_component(KeySnapshot).policies.get(g.key.holder_id)
    allows = None if policy is None else policy.allows
    shown = [
        _ShownAlias(alias, rows) for alias in get_component(Aliases).all() if (rows := _list_targets(alias, allows))
    ]
    rows, failure = _look_up(query.model.strip(), allows)
    return show(
        "routing.html",
        "dashboard/routing",
        query=query,
        rows=rows,
        failure=failure,
        aliases=shown,
        settings=get_settings(),
    )


def _look_up(name: str, allows: Allows | None) -> tuple[list[_Row], str]:
    """Returns the targets for a name, or the problem with the name."""
    if not name:
        return [], ""
    alias = find_alias(name)
    if alias is not None:
        return _list_targets(alias, allows), ""
    try:
        offers = get_offers(find_offered_model(name, get_configured_providers()))
    except GatewayError as error:
        return [], error.message
    rows = [_make_row(offer.tag, offer.model_id, offer) for offer in offers]
    return [row for row in rows if allows is None or allows(row.provider, row.model)], ""


def _list_targets(alias: Alias, allows: Allows | None) -> list[_Row]:
    rows = []
    for target in alias.targets:
        for candidate in find_candidates([target], allows):
            row = _make_row(candidate.provider.name, candidate.model_id, _get_offer(candidate))
            rows.append(row._replace(weight=target.weight))
    return rows


def _get_offer(candidate: Candidate) -> Offer | None:
    if candidate.model is None:
        return None
    return get_offers(Served(candidate.provider, candidate.model))[0]


def _make_row(provider: str, model: str, offer: Offer | None) -> _Row:
    return _Row(provider, model, offer, get_avoided_s(provider, model))
