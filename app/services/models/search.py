"""Searches a list of models: the models that contain some words, and the names most similar to an unknown one."""

from __future__ import annotations

import re
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from heapq import nlargest
from itertools import accumulate, islice

from app.services.models.entry import Model
from app.services.providers import fold_version
from app.yielding import PAUSE_S

# The longest search text. Each word takes 1 ms in the longest list.
MAX_SEARCH_CHARACTERS = 200
MAX_SEARCH_WORDS = 12
# Longer than any list. A larger number is a mistake, and the caller gets an error.
MAX_OFFSET = 10_000_000

# The nearest names are part of the response to a mistyped name, which any caller can cause. So their time is limited to
# about 5 ms: this many parts of the name are searched for, this many models with the rarest parts are scored, and this
# many are compared letter by letter, at 50 µs each.
_MAX_PARTS = 6
_PIECE_LENGTH = 3
_MAX_MODELS_PER_PART = 800
_MAX_MODELS_COMPARED = 24
_MAX_LETTERS_COMPARED = 64
_MIN_SIMILARITY = 0.5

# Searching this many for another word takes 0.1 ms.
_MAX_NUMBERS_BEFORE_PAUSE = 2_000

_WORDS = re.compile(r"[a-z0-9.]+")


def make_search_text(model: Model, keys: Sequence[str]) -> str:
    """Returns the searchable text of a model: its slug, id, keys, name and description, in lower case."""
    text = model.canonical_slug
    # Most names and keys are part of the slug already. Then the slug itself is the text and takes no extra memory.
    for part in (model.id.lower(), *keys, model.name.lower(), (model.description or "").lower()):
        if part not in text:
            text += "\n" + part
    return text


class SearchIndex:
    """The search texts of a list of models.

    Args:
        models: the list.
        texts: the text of each model, as `make_search_text` makes it.
    """

    def __init__(self, models: Sequence[Model], texts: Sequence[str]) -> None:
        self._models = models
        self._texts = texts
        self._joined = "\0".join(texts)
        self._starts = array("L", accumulate((len(text) + 1 for text in texts), initial=0))
        self._starts.pop()  # The last one is where another text would start.

    def search(self, words: str) -> list[Model]:
        """Returns the models whose text contains each of the words, in any order and case.

        It pauses after each word, so that other requests get a turn; callers bound the number of words.
        """
        first, *others = sorted(set(words.lower().split()), key=len, reverse=True) or [""]
        # One comprehension over all models: about 1 ms for 22,000, whether the word is rare or in every model.
        numbers = [number for number, text in enumerate(self._texts) if first in text]
        for word in others:
            if len(numbers) > _MAX_NUMBERS_BEFORE_PAUSE:
                time.sleep(PAUSE_S)
            numbers = [number for number in numbers if word in self._texts[number]]
        return [self._models[number] for number in numbers]

    def get_nearest(self, name: str, count: int) -> list[tuple[float, str]]:
        """Returns up to `count` ids that resemble `name`, each with its similarity (0 to 1), the best first.

        Its time is limited: it compares only models that share a word with `name`, or a part of its longest word.
        """
        wanted = fold_version(name)[-_MAX_LETTERS_COMPARED:]
        parts = self._get_parts(wanted)
        candidates = self._find_with_rarest(parts)
        chosen = nlargest(_MAX_MODELS_COMPARED, candidates, key=lambda number: self._score(number, parts))
        scored = ((_get_similarity(wanted, self._models[number]), self._models[number].id) for number in chosen)
        return nlargest(count, (pair for pair in scored if pair[0] >= _MIN_SIMILARITY))

    def _get_parts(self, wanted: str) -> list[str]:
        """Returns the words of `wanted` that some model has, or the pieces of its longest word that some model has."""
        words = sorted(set(_WORDS.findall(wanted)), key=len, reverse=True)
        parts = [word for word in words[:_MAX_PARTS] if word in self._joined]
        if parts or not words:
            return parts
        pieces = [words[0][at : at + _PIECE_LENGTH] for at in range(len(words[0]) - _PIECE_LENGTH + 1)]
        return [piece for piece in pieces[:_MAX_PARTS] if piece in self._joined]

    def _find_with_rarest(self, parts: Sequence[str]) -> set[int]:
        """Returns the numbers of models with one of the two rarest parts; common ones (`instruct`) say little."""
        rarest = sorted(parts, key=self._joined.count)[:2]
        return {number for part in rarest for number in islice(self._find_part(part), _MAX_MODELS_PER_PART)}

    def _find_part(self, part: str) -> Iterator[int]:
        """Yields the numbers of the models whose text contains `part`."""
        at = self._joined.find(part)
        while at >= 0:
            after = bisect_right(self._starts, at)
            yield after - 1
            at = self._joined.find(part, self._starts[after]) if after < len(self._starts) else -1

    def _score(self, number: int, parts: Sequence[str]) -> tuple[int, int]:
        """Returns how many letters of the parts a model has, and its own length negated, which prefers short names."""
        text = self._texts[number]
        return sum(len(part) for part in parts if part in text), -len(text)


def _get_similarity(wanted: str, model: Model) -> float:
    """Returns the similarity of two names; the part after the last slash counts as much as the whole."""
    slug = fold_version(model.canonical_slug)[-_MAX_LETTERS_COMPARED:]
    whole = SequenceMatcher(None, wanted, slug, autojunk=False).ratio()
    last = SequenceMatcher(None, wanted.rpartition("/")[2], slug.rpartition("/")[2], autojunk=False).ratio()
    return (whole + last) / 2
