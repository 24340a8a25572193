"""Keeps the requests of one conversation at one target, without remembering any: by a rendezvous hash.

Providers charge a fraction for tokens of a prompt that are in their cache, which no other provider shares. So the
target of a conversation has to be the same for each of its requests, on every worker and host. Each target gets a
number that depends on the conversation and on the target alone, and the target with the least number is chosen. If a
target fails, only its own conversations go elsewhere, and they return with it. (Thaler and Ravishankar, "Using
name-based mappings to increase hit rates", IEEE/ACM Transactions on Networking 6(1), 1998; with weights as in
draft-ietf-bess-weighted-hrw.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

from app.services.routing.target import Target

# The clients' headers that name a conversation, in lower case.
SESSION_HEADERS = ("x-session-affinity", "x-claude-code-session-id")


def get_session(body: Mapping[str, Any], get_header: Callable[[str], str | None]) -> str | None:
    """Returns what the client calls the conversation of a request; None if it does not say.

    Args:
        body: the client's body, whose `prompt_cache_key` counts first.
        get_header: a name in lower case → the value of that header of the client's request, or None.
    """
    name = body.get("prompt_cache_key")
    if isinstance(name, str) and name:
        return name
    return next((value for header in SESSION_HEADERS if (value := get_header(header))), None)


def make_seed(holder: str, session: str) -> bytes:
    """Returns what the numbers of a conversation depend on: equal names of different holders are not the same."""
    return blake2b(f"{holder}\0{session}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def draw(seed: bytes, target: Target) -> float:
    """Returns the number of a target, above 0, for a seed of at most 64 bytes.

    Over many seeds, a target has the least number as often as its weight says in proportion to the others' weights: the
    numbers are distributed exponentially, with the weight as the rate.
    """
    name = f"{target.provider.name}/{target.model}".encode("utf-8", "surrogatepass")
    drawn = int.from_bytes(blake2b(name, key=seed, digest_size=8).digest())
    return -math.log((drawn + 1) / 2.0**64) / (1.0 if target.weight is None else target.weight)
