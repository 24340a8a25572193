"""`GET /v1/models` and `/v1/models/<id>`: the catalog for the SDKs of OpenAI and of Anthropic."""

from __future__ import annotations

from typing import Annotated

import msgspec
from flask import Blueprint, g, request

from app.config import MAX_NAME_CHARACTERS
from app.errors import BadRequest, PermissionDenied
from app.runtime import get_component
from app.services.aliases import Aliases, find_alias, make_listed_alias, make_listed_aliases
from app.services.keys import KeySnapshot
from app.services.limits import Policy
from app.services.models import (
    ALIAS_PREFIX,
    Allows,
    MergedModel,
    OwnModels,
    PageQuery,
    make_merged_model,
    render_merged_list,
)
from app.services.providers import get_configured_providers
from app.services.routing import find_model
from app.web import Response, conditional_response, json_response, read_query

bp = Blueprint("models", __name__)

# As in Anthropic's API. Without `limit`, the list is whole, because OpenAI's SDKs request no second page.
_MAX_LIMIT = 1_000


class ModelsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of Anthropic's list: a page, and where it is."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=_MAX_LIMIT)] | None = None
    after_id: str = ""
    before_id: str = ""


@bp.get("/v1/models")
def list_models() -> Response:
    """Returns the models of every provider that is configured and that the key may use, whole or page by page."""
    query = read_query(ModelsQuery, ignore_unknown=True)  # SDKs add parameters of their own, such as `beta`.
    with_aliases = "HTTP_ANTHROPIC_VERSION" in request.environ
    policy = _get_policy()
    patterns, allows = ((), None) if policy is None else (policy.models, policy.allows)
    page = PageQuery(query.limit, query.after_id, query.before_id, with_aliases, patterns)
    aliases = get_component(Aliases)
    own = OwnModels(aliases.fingerprint, aliases.names, lambda: make_listed_aliases(allows)) if aliases.names else None
    return conditional_response(render_merged_list(page, allows, own))


@bp.get("/v1/models/<path:model_id>")
def retrieve_model(model_id: str) -> Response:
    """Returns one model, by its id or by another name that people use for it."""
    if len(model_id) > MAX_NAME_CHARACTERS:
        raise BadRequest(
            f"A model name may have at most {MAX_NAME_CHARACTERS} characters.", param="model", code="invalid_parameter"
        )
    policy = _get_policy()
    allows = None if policy is None else policy.allows
    if (own := _find_own(model_id, allows)) is not None:
        return json_response(own)
    _, model = find_model(model_id, get_configured_providers(), allows=allows)
    prefix = ALIAS_PREFIX if model_id.startswith(ALIAS_PREFIX) and not model.id.startswith(ALIAS_PREFIX) else ""
    return json_response(make_merged_model(model, prefix + model.id))


def _find_own(model_id: str, allows: Allows | None) -> MergedModel | None:
    """Returns the alias with this name, in lower case as in the list; None if there is none.

    Raises:
        PermissionDenied: the caller may use none of its targets.
    """
    alias = find_alias(model_id)
    if alias is None:
        return None
    listed = make_listed_alias(alias, allows)
    if listed is None:
        raise PermissionDenied(
            f"None of the models that {alias.name!r} stands for can be used with this key. GET /v1/models lists those"
            " that can; the operator can allow others.",
            param="model",
            code="model_not_allowed",
            should_retry=False,
        )
    return listed if alias.name == model_id.lower() else msgspec.structs.replace(listed, id=ALIAS_PREFIX + alias.name)


def _get_policy() -> Policy | None:
    """Returns the policy that limits the key's models; None for all models."""
    policy = get_component(KeySnapshot).policies.get(g.key.holder_id)
    return policy if policy is not None and policy.models else None
