"""One provider's list of models as it was at one moment: looked up by id and by name, searched, never changed."""

from __future__ import annotations

import datetime
import hashlib
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import accumulate, islice
from typing import overload

import msgspec

from app.services.models.entry import Model
from app.services.models.names import Naming, fold_version
from app.yielding import with_pauses

# The nearest names are looked for in the answer to anybody's mistake, so their time is bounded to about 5 ms: so many
# parts of the asked name are looked for, so many models with the rarest of them weighed, and so many compared letter by
# letter, each at 50 µs.
_PARTS_TRIED = 6
_PIECE_LENGTH = 3
_MODELS_PER_PART = 800
_MODELS_COMPARED = 24
_LETTERS_COMPARED = 64
_LEAST_LIKENESS = 0.5

_WORDS = re.compile(r"[a-z0-9.]+")


class Listing(Sequence[Model]):
    """A list of models with its indexes.

    Attributes:
        fetched_at: when it came, UTC.
        version: a digest of its entries; equal lists have equal versions in every process.
    """

    def __init__(self, models: Sequence[Model], naming: Naming) -> None:
        self._models = tuple(models)
        self._naming = naming
        self.fetched_at = datetime.datetime.now(datetime.UTC)
        self._by_id = {model.id: model for model in self._models}
        self._by_key: dict[str, tuple[Model, ...]] = {}
        self._texts: list[str] = []
        digest = hashlib.blake2b(digest_size=12)
        for model in with_pauses(self._models):
            self._add_keys(model)
            digest.update(msgspec.json.encode(model))
        self.version = digest.hexdigest()
        self._joined = "\0".join(self._texts)
        lengths = (len(text) + 1 for text in self._texts)
        self._starts = array("L", accumulate(lengths, initial=0))
        self._starts.pop()  # What would be the next model's.

    def _add_keys(self, model: Model) -> None:
        keys = self._naming.keys(model.id)
        for key in keys:
            self._by_key[key] = (*self._by_key.get(key, ()), model)
        text = model.canonical_slug
        # Most names and keys are part of the slug already, and then the slug itself is the text, at no memory.
        for part in (model.id.lower(), *keys, model.name.lower(), (model.description or "").lower()):
            if part not in text:
                text += "\n" + part
        self._texts.append(text)

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
        """Returns the models that `name` can mean: the one with this id, else all that share its key."""
        exact = self._by_id.get(name)
        if exact is not None:
            return (exact,)
        return next((found for key in self._naming.asked(name) if (found := self._by_key.get(key))), ())

    def search(self, words: str) -> Sequence[Model]:
        """Returns the models whose id, name or description holds each of the words, in any case and order."""
        first, *others = sorted(words.lower().split(), key=len, reverse=True) or [""]
        # Over all models in one comprehension: about 1 ms for 22,000, whether the word is rare or in each of them.
        numbers = [number for number, text in enumerate(self._texts) if first in text]
        return [self._models[number] for number in numbers if all(word in self._texts[number] for word in others)]

    def nearest(self, name: str, count: int) -> list[tuple[float, str]]:
        """Returns up to `count` ids that resemble `name`, each with its likeness (0 to 1), best first.

        Its time is bounded: it compares only models that share a word with `name`, else a part of its longest word.
        """
        wanted = fold_version(name)[-_LETTERS_COMPARED:]
        words = sorted(set(_WORDS.findall(wanted)), key=len, reverse=True)
        parts = [word for word in words[:_PARTS_TRIED] if word in self._joined]
        if not parts and words:
            pieces = [words[0][at : at + _PIECE_LENGTH] for at in range(len(words[0]) - _PIECE_LENGTH + 1)]
            parts = [piece for piece in pieces[:_PARTS_TRIED] if piece in self._joined]
        chosen = nlargest(_MODELS_COMPARED, self._with_rarest(parts), key=lambda number: self._shared(number, parts))
        scored = ((_likeness(wanted, self._models[number]), self._models[number].id) for number in chosen)
        return nlargest(count, (pair for pair in scored if pair[0] >= _LEAST_LIKENESS))

    def _with_rarest(self, parts: Sequence[str]) -> set[int]:
        """Returns models that have one of the two rarest parts: common ones (`instruct`) tell nothing apart."""
        rarest = sorted(parts, key=self._joined.count)[:2]
        return {number for part in rarest for number in islice(self._find_part(part), _MODELS_PER_PART)}

    def _shared(self, number: int, parts: Sequence[str]) -> tuple[int, int]:
        """Returns how many letters of the parts a model has, and, to prefer short names, its own length negated."""
        text = self._texts[number]
        return sum(len(part) for part in parts if part in text), -len(text)

    def _find_part(self, part: str) -> Iterator[int]:
        """Yields the numbers of the models whose text holds `part`."""
        at = self._joined.find(part)
        while at >= 0:
            after = bisect_right(self._starts, at)
            yield after - 1
            at = self._joined.find(part, self._starts[after]) if after < len(self._starts) else -1


def _likeness(wanted: str, model: Model) -> float:
    """Returns how alike two names are, the part behind the last slash counting as much as the whole."""
    slug = fold_version(model.canonical_slug)[-_LETTERS_COMPARED:]
    whole = SequenceMatcher(None, wanted, slug, autojunk=False).ratio()
    last = SequenceMatcher(None, wanted.rpartition("/")[2], slug.rpartition("/")[2], autojunk=False).ratio()
    return (whole + last) / 2
