"""The names people write for a model, and the keys under which a list knows it.

Two names are the same model when their keys are equal, and only then: nothing here is a likeness. Fireworks writes
the dots of a version as `p` (DeepSeek-V3.1 is `deepseek-v3p1`), so its keys have them as dots again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_VERSION_P = re.compile(r"(?<=\d)p(?=\d)")

# Who publishes which family on Hugging Face. `deepseek-ai/DeepSeek-V3.1` is Fireworks' deepseek-v3p1 because its maker
# wrote it; somebody else's repository of the same name is another model, and stays unknown.
_MAKERS: dict[str, tuple[str, ...]] = {
    "deepseek-ai": ("deepseek",),
    "google": ("gemma",),
    "meta-llama": ("llama",),
    "microsoft": ("phi",),
    "minimaxai": ("minimax",),
    "mistralai": ("codestral", "devstral", "magistral", "ministral", "mistral", "mixtral", "pixtral"),
    "moonshotai": ("kimi",),
    "nvidia": ("nemotron",),
    "openai": ("gpt-oss",),
    "qwen": ("qwen", "qwq"),
    "thudm": ("glm",),
    "zai-org": ("glm",),
}


@dataclass(frozen=True, slots=True)
class Naming:
    """How one provider's models are named.

    Attributes:
        keys: id → the keys under which the model is known, in lower case.
        asked: what a caller wrote → the keys it may mean, best first.
        is_unlisted: tells whether what a caller wrote is a form that the provider takes without listing it.
    """

    keys: Callable[[str], Sequence[str]]
    asked: Callable[[str], Sequence[str]]
    is_unlisted: Callable[[str], bool]


def fold_version(name: str) -> str:
    """Returns `name` in lower case with the `p` between two digits as the dot that it stands for."""
    return _VERSION_P.sub(".", name.lower())


def _fireworks_keys(model_id: str) -> list[str]:
    """`accounts/fireworks/models/kimi-k3` is known as `fireworks/kimi-k3` and `kimi-k3`."""
    parts = fold_version(model_id).split("/")
    if len(parts) == 4 and parts[0] == "accounts" and parts[2] == "models":
        return [f"{parts[1]}/{parts[3]}", parts[3]]
    return [fold_version(model_id)]


def _fireworks_asked(name: str) -> list[str]:
    folded = fold_version(name)
    short = folded.removeprefix("accounts/").replace("/models/", "/")
    owner, slash, slug = short.partition("/")
    if folded.startswith("accounts/") or not slash:
        return [short]
    if slug.startswith(_MAKERS.get(owner, ())):
        return [short, f"fireworks/{slug}"]
    return [short]


def is_fireworks_form(name: str) -> bool:
    """Tells whether `name` can only be Fireworks': an account's model, a deployment, a snapshot, a router.

    No Hugging Face id holds a `#` or an `@`.
    """
    return name.startswith(("accounts/", "routers/")) or "#" in name or "@" in name


FIREWORKS_NAMING = Naming(keys=_fireworks_keys, asked=_fireworks_asked, is_unlisted=is_fireworks_form)

# Hugging Face ids. Providers know them in one case only, so a name in another case is brought into theirs.
FEATHERLESS_NAMING = Naming(
    keys=lambda model_id: [model_id.lower()],
    asked=lambda name: [name.lower()],
    is_unlisted=lambda name: False,
)

# `MODEL:VERSION` and `deploy_id:ID`.
DEEPINFRA_NAMING = Naming(
    keys=FEATHERLESS_NAMING.keys, asked=FEATHERLESS_NAMING.asked, is_unlisted=lambda name: ":" in name
)

# Pools (`a,b:latency`), `:THINKING`, and names without an owner: a chute's UUID, an account's own alias.
CHUTES_NAMING = Naming(
    keys=FEATHERLESS_NAMING.keys,
    asked=FEATHERLESS_NAMING.asked,
    is_unlisted=lambda name: ":" in name or "," in name or "/" not in name,
)
