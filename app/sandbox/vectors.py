"""Vectors of texts: the same text always has the same vector, and texts that share words have similar ones.

Each word, without its ending, and each run of three letters of a text adds to some positions of its vector, chosen by
its hash. So the similarity of two texts is about the share of their common words and word parts; meaning plays no role.
English words that are in every text, such as "the", add little; otherwise they would decide.
"""

import hashlib
import math
import re
import struct
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

_PLACES = 4  # Per word or run of letters; with fewer, two words could have the same positions by chance.
_RUN = 3
_RUN_WEIGHT = 0.5  # "paint" and "painting" are similar, but less so than a word and itself.
_COMMON_WEIGHT = 0.1
_COMMON = {
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did", "do", "does", "for",
    "from", "had", "has", "have", "he", "her", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its",
    "me", "my", "no", "not", "of", "on", "or", "our", "she", "should", "so", "than", "that", "the", "their", "them",
    "then", "there", "these", "they", "this", "those", "to", "too", "up", "us", "was", "we", "were", "what", "when",
    "where", "which", "who", "whom", "whose", "why", "will", "with", "would", "you", "your",
}  # fmt: skip
_ENDING = re.compile(r"(?:ing|ed|s)$")
_LEAST_STEM = 3
_LEAST_NORM = 1e-6  # A smaller norm is a rounding error.


def make_vector(model: str, text: str, length: int) -> list[float]:
    """Returns the vector of a text, of length one; models have different vectors.

    A text without words, or one whose words cancel each other out in few positions, gets a position of its own, because
    nothing can be compared with a vector of zeros.
    """
    vector = [0.0] * length
    for part, weight in _weigh_parts(text).items():
        for place, sign in _choose_places(model, part):
            vector[place % length] += sign * weight
    norm = math.sqrt(sum(value * value for value in vector))
    if norm < _LEAST_NORM:
        place, sign = _choose_places(model, text)[0]
        return [sign if at == place % length else 0.0 for at in range(length)]
    return [value / norm for value in vector]


def get_similarity(one: str, other: str) -> float:
    """Returns the similarity of two texts, from 0 to 1: the cosine of their weighted parts."""
    first, second = _weigh_parts(one), _weigh_parts(other)
    product = sum(weight * second[part] for part, weight in first.items())
    norms = math.sqrt(sum(w * w for w in first.values()) * sum(w * w for w in second.values()))
    return min(product / norms, 1.0) if norms else 0.0


def encode_base64(vector: list[float]) -> str:
    """Returns a vector as 32-bit floats, the lowest byte first, in base64."""
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _weigh_parts(text: str) -> Counter[str]:
    parts: Counter[str] = Counter()
    for part, weight in _iterate_parts(text):
        parts[part] += weight  # type: ignore[assignment]  # A Counter holds any numbers.
    return parts


def _iterate_parts(text: str) -> Iterator[tuple[str, float]]:
    for word in re.findall(r"\w+", text.lower()):
        weight = _COMMON_WEIGHT if word in _COMMON else 1.0
        yield _cut_ending(word), weight
        framed = f"<{word}>"
        for at in range(len(framed) - _RUN + 1):
            yield framed[at : at + _RUN] + "…", weight * _RUN_WEIGHT


def _cut_ending(word: str) -> str:
    """Returns the common stem of the usual English forms of a word: `studi` for study, studies and studying."""
    stem = _ENDING.sub("", word)
    if not word.isalpha() or len(stem) < _LEAST_STEM:
        return word
    if stem.endswith("e") and len(stem) > _LEAST_STEM:
        stem = stem[:-1]
    if stem[-1] == stem[-2]:
        stem = stem[:-1]
    return stem[:-1] + "i" if stem.endswith("y") else stem


@lru_cache(maxsize=10_000)
def _choose_places(model: str, part: str) -> tuple[tuple[int, float], ...]:
    digest = hashlib.blake2b(f"{model}\0{part}".encode("utf-8", "replace"), digest_size=4 * _PLACES).digest()
    numbers = struct.unpack(f"<{_PLACES}I", digest)
    return tuple((number >> 1, 1.0 if number & 1 else -1.0) for number in numbers)
