"""Finds the models that a name can mean, in the current lists of the providers; it never guesses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from heapq import nlargest

from app.errors import BadRequest, NotFound, PermissionDenied
from app.services.models import (
    ALIAS_PREFIX,
    Allows,
    ModelList,
    Served,
    fetch_for_unknown,
    get_model_lists,
    peek_model_list,
)
from app.services.providers import PROVIDERS, Provider, is_configured

_MAX_NAMES_SHOWN = 5

ModelLists = Sequence[tuple[Provider, ModelList]]


def find_model(
    name: str, providers: Sequence[Provider], *, fetch_again: bool = True, allows: Allows | None = None
) -> Served:
    """Returns the only model that `name` can mean in these providers' lists, with its provider.

    Args and raises as for `find_all`, and:

    Raises:
        BadRequest: the name matches several models; the message lists them.
    """
    found = find_all(name, providers, fetch_again=fetch_again, allows=allows)
    if len(found) > 1:
        raise make_ambiguous(name, found)
    return found[0]


def find_all(
    name: str, providers: Sequence[Provider], *, fetch_again: bool = True, allows: Allows | None = None
) -> list[Served]:
    """Returns the models that `name` can mean in these providers' lists, at least one.

    Args:
        name: the name as a caller wrote it.
        providers: the providers whose lists are searched.
        fetch_again: whether lists without the name may be fetched once more, because it may belong to a new model.
        allows: the models that the caller may use; None for all.

    Raises:
        NotFound: it matches none; the message names the most similar ones.
        PermissionDenied: it matches only models that the caller may not use.
        Unavailable: it matches none, and a list is missing.
    """
    name = without_alias(name)
    lists, missing = get_model_lists(providers)
    found = _find(name, lists)
    if not found and fetch_again and fetch_for_unknown(providers):
        lists, missing = get_model_lists(providers)
        found = _find(name, lists)
    if found and allows is not None:
        found = [served for served in found if allows(served.provider.name, served.model.id)]
        if not found:
            raise make_not_allowed(name)
    if found:
        return found
    if missing is not None:
        raise missing
    raise ModelNotFound(name, lists)


def _find(name: str, lists: ModelLists) -> list[Served]:
    exact = [Served(provider, model) for provider, models in lists if (model := models.get(name)) is not None]
    if exact:
        return exact
    named = [Served(provider, model) for provider, models in lists for model in models.find(name)]
    if named:
        # The id itself in another case precedes other names: another provider's name for it is not this id.
        return [served for served in named if served.model.id.lower() == name.lower()] or named
    # `deepinfra/Org/Name` names the provider whose list has `Org/Name`.
    prefix, _, rest = name.partition("/")
    if prefix.lower() not in PROVIDERS:
        return []
    return [
        Served(owner, model) for owner, models in lists if owner.name == prefix.lower() for model in models.find(rest)
    ]


def make_ambiguous(name: str, found: Sequence[Served]) -> BadRequest:
    """Returns the error for a name that means several models that may differ."""
    differs = len({served.model.quantization for served in found}) > 1
    shown = "; ".join(_describe(served, with_quantization=differs) for served in found[: 2 * _MAX_NAMES_SHOWN])
    return BadRequest(
        f'{name!r} matches several models: {shown}. Send one of these ids and its provider, as in "provider": '
        f'"{found[0].provider.name}".',
        param="model",
        code="ambiguous_model",
    )


def _describe(served: Served, *, with_quantization: bool) -> str:
    stated = f" ({served.model.quantization or 'no quantization stated'})" if with_quantization else ""
    return f"{served.provider.name}: {served.model.id}{stated}"


def make_not_allowed(name: str) -> PermissionDenied:
    """Returns the error for a model that the caller's key may not use."""
    return PermissionDenied(
        f"This key may not use the model {name[:200]!r}. GET /v1/models lists those that it may use; the operator can "
        "allow others.",
        param="model",
        code="model_not_allowed",
        should_retry=False,
    )


class ModelNotFound(NotFound):
    """A name that no list has. The similar names are searched only when its message is first read, because that takes
    milliseconds, and the request may have other names.

    Args:
        name: the name as the caller wrote it.
        lists: the searched lists.
    """

    def __init__(self, name: str, lists: ModelLists) -> None:
        super().__init__("", param="model", code="model_not_found")
        self._name, self._lists = name, lists
        del self.message

    @cached_property
    def message(self) -> str:  # type: ignore[override]
        """The message, with the most similar names."""
        scored = [near for _, models in self._lists for near in models.get_nearest(self._name, _MAX_NAMES_SHOWN)]
        nearest = list(dict.fromkeys(model_id for _, model_id in nlargest(_MAX_NAMES_SHOWN, scored)))
        where = ", ".join(provider.title for provider, _ in self._lists)
        hint = f" The nearest names are: {', '.join(nearest)}." if nearest else ""
        return f"Model {self._name!r} is not served by {where}.{hint} GET /api/catalog/models lists all models."

    def __str__(self) -> str:
        return self.message


def without_alias(name: str) -> str:
    """Returns a name without the prefix of aliases, unless a list has a model whose own name begins with it."""
    if not name.startswith(ALIAS_PREFIX):
        return name
    lists = [
        models for provider in PROVIDERS.values() if is_configured(provider) and (models := peek_model_list(provider))
    ]
    return name if any(models.find(name) for models in lists) else name.removeprefix(ALIAS_PREFIX)
