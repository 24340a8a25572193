"""The names that people write for models, and the keys of models in a list.

Two names mean the same model only if their keys are equal; similar keys never match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_VERSION_P = re.compile(r"(?<=\d)p(?=\d)")

FindIds = Callable[[str], Sequence[str]]  # a name → the ids that it can mean in the provider's list, if it is loaded


def _never(name: str) -> bool:
    return False


def _as_written(name: str, find_ids: FindIds) -> str:
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """The naming of one provider's models.

    Attributes:
        get_keys: id → the keys of the model, in lower case.
        get_asked_keys: a caller's text → the keys that it may mean, the best first.
        is_unlisted: name → whether it has a form that the provider accepts without listing it. Such a name is sent
            unchanged to a caller's explicit provider.
        claims: name → whether it can only belong to this provider, even if the provider's key is not set.
        claims_if_configured: the same, but only if the provider's key is set.
        is_confidential: id → whether the model runs in confidential computing, which its id says.
        get_canonical_id: a claimed name → the id in the provider's spelling; a name that is not in its list is
            unchanged.
    """

    get_keys: Callable[[str], Sequence[str]]
    get_asked_keys: Callable[[str], Sequence[str]]
    is_unlisted: Callable[[str], bool] = _never
    claims: Callable[[str], bool] = _never
    claims_if_configured: Callable[[str], bool] = _never
    is_confidential: Callable[[str], bool] = _never
    get_canonical_id: Callable[[str, FindIds], str] = _as_written


def make_hugging_face_naming(
    is_unlisted: Callable[[str], bool] = _never, is_confidential: Callable[[str], bool] = _never
) -> Naming:
    """Returns the naming of a provider whose ids are Hugging Face's.

    Providers accept such an id only in the case of their own list, so other spellings are converted.
    """
    return Naming(
        get_keys=_lower_case, get_asked_keys=_lower_case, is_unlisted=is_unlisted, is_confidential=is_confidential
    )


def _lower_case(name: str) -> Sequence[str]:
    return [name.lower()]


def fold_version(name: str) -> str:
    """Returns `name` in lower case, with a dot in place of a `p` between two digits (`v3p1` is v3.1)."""
    return _VERSION_P.sub(".", name.lower())
