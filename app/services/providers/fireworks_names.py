"""Fireworks' names: ids below accounts, the names that people write for them, and the weights behind them."""

from __future__ import annotations

import re

from app.services.providers.naming import FindIds, Naming, fold_version
from app.services.providers.weights import find_maker, read_weights

# The publishers of model families on Hugging Face. `deepseek-ai/DeepSeek-V3.1` is Fireworks' deepseek-v3p1 because its
# maker wrote it; a repository of the same name by another owner is another model and does not match.
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

# The kinds of models that a maker published and Fireworks serves unchanged: no adapters, and no merges of several.
_PLAIN_KINDS = ("HF_BASE_MODEL", "EMBEDDING_MODEL")

_OWN_MODELS = "accounts/fireworks/models/"

# Fireworks writes the generation of a Llama as a version: `llama-v3p1-8b` is Llama-3.1-8B.
_LLAMA_VERSION = re.compile(r"^llama-v(?=\d)")


def get_weights(model_id: str, kind: object) -> str | None:
    """Returns the name of a model's weights: `deepseek-ai/deepseek-v3.1` for Fireworks' own `deepseek-v3p1`.

    Returns:
        None if the model is another account's or has another kind, or if its family has no known maker.
    """
    if kind not in _PLAIN_KINDS or not model_id.startswith(_OWN_MODELS):
        return None
    name = _LLAMA_VERSION.sub("llama-", fold_version(model_id.removeprefix(_OWN_MODELS)))
    maker = find_maker(name, _MAKERS)
    return None if maker is None else read_weights(f"{maker}/{name}")


def get_keys(model_id: str) -> list[str]:
    """Returns the keys of an id: `accounts/fireworks/models/kimi-k3` is known as `fireworks/kimi-k3` and `kimi-k3`.

    Fireworks writes the dots of a version as `p` (DeepSeek-V3.1 is `deepseek-v3p1`); in keys they are dots.
    """
    parts = fold_version(model_id).split("/")
    if len(parts) == 4 and parts[0] == "accounts" and parts[2] == "models":
        return [f"{parts[1]}/{parts[3]}", parts[3]]
    return [fold_version(model_id)]


def get_asked_keys(name: str) -> list[str]:
    """Returns the keys that a caller's name may mean. A maker's Hugging Face id means the same model at Fireworks."""
    folded = fold_version(name)
    short = folded.removeprefix("accounts/").replace("/models/", "/")
    owner, slash, slug = short.partition("/")
    if folded.startswith("accounts/") or not slash:
        return [short]
    if slug.startswith(_MAKERS.get(owner, ())):
        return [short, f"fireworks/{slug}"]
    return [short]


def is_account_id(name: str) -> bool:
    """Returns whether `name` is a model, a router or a deployment of an account, below `accounts/`."""
    return name.startswith("accounts/")


def is_own_form(name: str) -> bool:
    """Returns whether only Fireworks uses names of this form: an account's model, a deployment, a snapshot, a router.

    No Hugging Face id contains a `#` or an `@`.
    """
    return name.startswith(("accounts/", "routers/")) or "#" in name or "@" in name


def get_canonical_id(name: str, find_ids: FindIds) -> str:
    """Returns an `accounts/` id in Fireworks' spelling; an id that is not in its list is unchanged."""
    if not name.startswith("accounts/fireworks/") or "#" in name or "@" in name:
        return name
    ids = find_ids(name)
    if len(ids) == 1:
        return ids[0]
    account, _, rest = name.rpartition("/")
    # `accounts/fireworks/x` is not one of Fireworks' own forms, and can only mean its model x.
    return f"{account}/models/{rest}" if account == "accounts/fireworks" and rest else name


NAMING = Naming(
    get_keys=get_keys,
    get_asked_keys=get_asked_keys,
    is_unlisted=is_own_form,
    claims=is_account_id,
    claims_if_configured=is_own_form,
    get_canonical_id=get_canonical_id,
)
