"""An immutable snapshot of one provider's list of models, with lookup by id and name, and search."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterator, Sequence
from typing import overload

import msgspec

from app.services.models.entry import Model
from app.services.models.search import SearchIndex, make_search_text
from app.services.providers import Naming
from app.yielding import with_pauses


class ModelList(Sequence[Model]):
    """A list of models with its indexes.

    Args:
        models: the models, in the provider's order.
        naming: how the provider names models.

    Attributes:
        fetched_at: when the list was fetched, UTC.
        version: a digest of its entries; equal lists have equal versions in every process.
    """

    def __init__(self, models: Sequence[Model], naming: Naming) -> None:
        self._models = tuple(models)
        self._naming = naming
        self.fetched_at = datetime.datetime.now(datetime.UTC)
        self._by_id = {model.id: model for model in self._models}
        self._by_key: dict[str, tuple[Model, ...]] = {}
        texts: list[str] = []
        digest = hashlib.blake2b(digest_size=12)
        for model in with_pauses(self._models):
            keys = naming.get_keys(model.id)
            for key in keys:
                self._by_key[key] = (*self._by_key.get(key, ()), model)
            texts.append(make_search_text(model, keys))
            digest.update(msgspec.json.encode(model))
        self.version = digest.hexdigest()
        self._index = SearchIndex(self._models, texts)

    def __len__(self) -> int:
        return len(self._models)

    @overload
    def __getitem__(self, index: int) -> Model: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Model, ...]: ...

    def __getitem__(self, index: int | slice) -> Model | tuple[Model, ...]:
        return self._models[index]

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models)

    def get(self, model_id: str) -> Model | None:
        """Returns the model with exactly this id."""
        return self._by_id.get(model_id)

    def find(self, name: str) -> tuple[Model, ...]:
        """Returns the models that `name` can mean: the one with this id, or else all that share its key."""
        exact = self._by_id.get(name)
        if exact is not None:
            return (exact,)
        return next((found for key in self._naming.get_asked_keys(name) if (found := self._by_key.get(key))), ())

    def search(self, words: str) -> Sequence[Model]:
        """Returns the models whose id, name or description contains each of the words, in any order and case."""
        return self._index.search(words)

    def get_nearest(self, name: str, count: int) -> list[tuple[float, str]]:
        """Returns up to `count` ids that resemble `name`, each with its similarity (0 to 1), the best first."""
        return self._index.get_nearest(name, count)
