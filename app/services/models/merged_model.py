"""A model in the form for the SDKs of OpenAI and Anthropic; an entry has the keys of both.

Claude Code offers only models whose names begin with `anthropic`, so each model has an alias with that prefix, listed
only for clients of Anthropic's API: others would see each model twice.
"""

from __future__ import annotations

import time

import msgspec

from app.services.models.entry import Model

ALIAS_PREFIX = "anthropic/"


class MergedModel(msgspec.Struct, frozen=True, gc=False):
    """A model as both APIs show it; null where the catalog does not know.

    Attributes:
        created, created_at: one moment, in seconds since 1970 and in RFC 3339; 1970 if unknown, as SDKs require a time.
        owned_by: the organisation in its id, or else the provider.
        max_input_tokens, context_length: the tokens that fit into its context.
        max_tokens: the most output tokens; null if only the context limits them.
    """

    id: str
    created: int
    created_at: str
    owned_by: str
    display_name: str
    max_input_tokens: int | None
    context_length: int | None
    max_tokens: int | None
    object: str = "model"
    type: str = "model"
    lifecycle: str = "active"


def make_merged_model(model: Model, name: str) -> MergedModel:
    """Returns a model in the form for the SDKs of OpenAI and Anthropic."""
    created = model.created or 0
    return MergedModel(
        id=name,
        created=created,
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        owned_by=model.provider_slug if "/" in model.id else model.source_gateway,
        display_name=model.name,
        max_input_tokens=model.context_length,
        context_length=model.context_length,
        max_tokens=model.max_output_tokens,
    )
