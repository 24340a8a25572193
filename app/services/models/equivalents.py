"""Finds the models of several providers that are the same.

Two entries are the same model if they name the same weights (`Model.weights`, set in a provider's file) and their
stated quantisations do not contradict each other. Equal entries form one group, so the relation is symmetric and
transitive. docs/routing.md has the rules with examples.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from app.services.models.entry import Model
from app.services.models.model_list import ModelList
from app.services.providers import Provider
from app.yielding import with_pauses

# A model takes a microsecond, so a slice takes less than a millisecond.
_SLICE_MODELS = 500

# Quantisations that hardly change a model's answers. An entry that states none counts as the same as one of these;
# anything below eight bits is only the same as entries that state it too.
_NEARLY_LOSSLESS = frozenset({"bf16", "fp16", "fp32", "fp8", "int8"})


class Served(NamedTuple):
    """A model and the provider that lists it."""

    provider: Provider
    model: Model


Equivalents = dict[tuple[str, str], tuple[Served, ...]]  # (provider's name, model id) → its group, itself included


def make_equivalents(lists: Sequence[tuple[Provider, ModelList]]) -> Equivalents:
    """Returns the group of each model that is listed more than once; a model without an equivalent has none.

    It pauses between slices, so that streams continue during its work on some 22,000 models.

    Args:
        lists: the lists, in the order for the members of a group.
    """
    providers = {provider.name: provider for provider, _ in lists}
    # Most models are listed once. Keeping only the model itself for these creates no object that the garbage collector
    # would have to examine.
    first: dict[str, Model] = {}
    listed: dict[str, list[Served]] = {}
    for provider, models in lists:
        for model in with_pauses(models, slice_items=_SLICE_MODELS):
            if model.weights is None or (known := first.setdefault(model.weights, model)) is model:
                continue
            if model.weights not in listed:
                listed[model.weights] = [Served(providers[known.source_gateway], known)]
            listed[model.weights].append(Served(provider, model))
    found: Equivalents = {}
    for members in with_pauses(listed.values(), slice_items=_SLICE_MODELS):
        for group in _split(members):
            found.update(((served.provider.name, served.model.id), group) for served in group)
    return found


def are_same(members: Sequence[Served]) -> bool:
    """Returns whether all of these are one model, by the rules of `make_equivalents`."""
    weights = {served.model.weights for served in members}
    return len(weights) == 1 and None not in weights and any(len(group) == len(members) for group in _split(members))


def _split(members: Sequence[Served]) -> Iterator[tuple[Served, ...]]:
    """Yields the groups of two or more among entries that name the same weights."""
    for spelled_alike in _split_by_spelling(members):
        for group in _split_by_quantization(spelled_alike):
            if len(group) > 1:
                yield tuple(group)


def _split_by_spelling(members: Sequence[Served]) -> Iterable[list[Served]]:
    """Splits by exact id if one provider has two ids that differ only in case: there, case distinguishes models."""
    folded = [(served.provider.name, served.model.id.lower()) for served in members]
    if len(set(folded)) == len(folded):
        return [list(members)]
    exact: dict[str, list[Served]] = defaultdict(list)
    for served in members:
        exact[served.model.id].append(served)
    return exact.values()


def _split_by_quantization(members: Sequence[Served]) -> Iterable[list[Served]]:
    """Splits by stated quantisation. Entries without one join the others only if all of those state the same one."""
    stated: dict[str | None, list[Served]] = defaultdict(list)
    for served in members:
        stated[served.model.quantization].append(served)
    if stated.keys() - {None} <= _NEARLY_LOSSLESS and len(stated) <= 2 and None in stated:
        return [list(members)]
    return stated.values()
