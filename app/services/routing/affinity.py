"""Keeps the requests of one conversation at one target, without storing any of them: by a rendezvous hash.

Providers charge only a fraction for prompt tokens that are in their cache, which no other provider shares. So all
requests of a conversation must go to the same target, on every worker and host. Each target gets a number that depends
only on the conversation and the target, and the target with the lowest number is chosen. If a target fails, only its
own conversations go elsewhere, and they return when it does. (Thaler and Ravishankar, "Using name-based mappings to
increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998; with weights as in draft-ietf-bess-weighted-hrw.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from app.services.routing.target import Target

# Client headers that name a conversation, in lower case.
SESSION_HEADERS = ("x-session-affinity", "x-claude-code-session-id")


def get_session(body: Mapping[str, Any], get_header: Callable[[str], str | None]) -> str | None:
    """Returns the client's name for the conversation of a request; None without one.

    Args:
        body: the client's body, whose `prompt_cache_key` takes precedence.
        get_header: maps a lower-case name to the value of that header of the client's request, or to None.
    """
    name = body.get("prompt_cache_key")
    if isinstance(name, str) and name:
        return name
    return next((value for header in SESSION_HEADERS if (value := get_header(header))), None)


def make_seed(holder: str, session: str) -> bytes:
    """Returns the seed for the numbers of a conversation: equal names of different holders give different seeds."""
    return blake2b(f"{holder}\0{session}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def draw(seed: bytes, target: Target) -> float:
    """Returns the number of a target, above 0, for a seed of at most 64 bytes.

    Over many seeds, a target has the lowest number in proportion to its weight among the others': the numbers are
    distributed exponentially, with the weight as the rate.
    """
    name = f"{target.provider.name}/{target.model}".encode("utf-8", "surrogatepass")
    drawn = int.from_bytes(blake2b(name, key=seed, digest_size=8).digest())
    return -math.log((drawn + 1) / 2.0**64) / (1.0 if target.weight is None else target.weight)
