"""Aliases in the form of `/v1/models`, and warnings for an operator."""

from __future__ import annotations

import time
from collections.abc import Iterable

from app.runtime import get_component
from app.services.aliases.aliases import Alias, Aliases, AliasTarget
from app.services.aliases.targets import Candidate, find_candidates, is_listed, split_target
from app.services.models import Allows, MergedModel
from app.services.providers import is_configured

# An alias belongs to the operator of the gateway, not to a maker of models.
OWNER = "gateway"


def make_listed_aliases(allows: Allows | None) -> list[MergedModel]:
    """Returns the aliases with at least one target that the caller may use, in order of name.

    Args:
        allows: the models that the caller may use; None for all.
    """
    found = [make_listed_alias(alias, allows) for alias in get_component(Aliases).all()]
    return [listed for listed in found if listed is not None]


def make_listed_alias(alias: Alias, allows: Allows | None) -> MergedModel | None:
    """Returns an alias in the form of a model; None if the caller may use none of its targets.

    It promises only the abilities that all of the caller's targets have: the shortest context, and the least output.
    These are None if one of them is unknown.
    """
    candidates = find_candidates(alias.targets, allows)
    if not candidates:
        return None
    context_length = _find_least(candidates, "context_length")
    return MergedModel(
        id=alias.name,
        created=alias.created_at,
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(alias.created_at)),
        owned_by=OWNER,
        display_name=alias.name,
        max_input_tokens=context_length,
        context_length=context_length,
        max_tokens=_find_least(candidates, "max_output_tokens"),
    )


def _find_least(candidates: Iterable[Candidate], field: str) -> int | None:
    values: list[int | None] = [None if each.model is None else getattr(each.model, field) for each in candidates]
    known = [value for value in values if value is not None]
    return min(known) if len(known) == len(values) else None


def warn_of_alias(name: str, targets: Iterable[AliasTarget]) -> list[str]:
    """Returns possible mistakes in an alias, a sentence each; providers whose lists are not loaded are not checked.

    Args:
        name: its name.
        targets: its targets.
    """
    warnings = []
    for target in targets:
        split = split_target(target.name)
        if split is not None and not is_configured(split[0]):
            setting = split[0].key_setting
            warnings.append(f"{target.name!r} cannot be used yet, because {setting} is not set.")
        elif not find_candidates([target]):
            warnings.append(f"{target.name!r} is in no list of models. Compare it with GET /api/catalog/models.")
    if is_listed(name):
        warnings.append(f"A provider lists a model {name!r}. Requests for this name go to the alias from now on.")
    return warnings
