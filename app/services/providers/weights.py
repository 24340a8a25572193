"""The names of weights: the Hugging Face repository behind a provider's entry, and its stated quantisation.

Two entries with equal names are the same model, and a request may be sent to either of them. So a name is made only
from certain facts of the entry, every word of it counts, and in doubt there is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

# Repositories that Hugging Face itself has moved and redirects: the old owner or beginning, and the new one.
_MOVED = {
    "meta-llama/meta-llama-": "meta-llama/llama-",
    "thudm/": "zai-org/",
}

# The words in names and lists that state a quantisation. Such a word is enclosed by two separators of the name.
_QUANTIZATION = re.compile(
    r"(?<![a-z0-9])"
    r"(awq|bf16|bnb|exl[23]|fp(?:4|6|8|16|32)|ggml|gguf|gptq|int[248]|mlx|mxfp4|nvfp4|[2-8]bit|q[2-8](?:_[0-9a-z]+)*"
    r"|w[48]a(?:4|8|16))"
    r"(?![a-z0-9])"
)


def read_weights(name: object) -> str | None:
    """Returns the name of the weights for a Hugging Face id, in lower case; None for any other value."""
    if not isinstance(name, str) or name.count("/") != 1 or name.startswith("/") or name.endswith("/"):
        return None
    if any(character.isspace() or character in ":,#@" for character in name):
        return None  # A form of the provider's own: a version, a pool, a deployment.
    folded = name.lower()
    for old, new in _MOVED.items():
        if folded.startswith(old):
            return new + folded[len(old) :]
    return folded


def read_stated_weights(model_id: str, root: object, *, mode: str = "") -> str | None:
    """Returns the name of the weights for an entry that also names their repository.

    Args:
        model_id: the provider's id.
        root: the entry's `root`, which providers that run vLLM or SGLang set to the repository; None if it has none.
        mode: an ending of ids that tells how the model is run, not which model it is; empty for none.

    Returns:
        The name of `root`, if the id is the same without `mode`, or without a quantisation that `root` adds. None if
        the two contradict each other: then nobody can say which of them is served.
    """
    plain = model_id.removesuffix(mode) if mode else model_id
    named = read_weights(plain)
    if root is None:
        return named
    rooted = read_weights(root)
    if rooted is None or named is None:
        return None
    added = rooted.removeprefix(named)
    if not added:
        return rooted
    is_quantization = rooted.startswith(named + "-") and _QUANTIZATION.fullmatch(added[1:]) is not None
    return rooted if is_quantization else None


def read_quantization(stated: object, name: str) -> str | None:
    """Returns the quantisation of an entry in lower case: its own statement, else that of the name; None for neither.

    Args:
        stated: the entry's own field, if it has one.
        name: the name of the weights, or the id.
    """
    if isinstance(stated, str) and stated and stated.lower() not in {"unknown", "none"}:
        return stated.lower()
    found = _QUANTIZATION.search(name.lower())
    return found[1] if found else None


def find_maker(name: str, makers: Mapping[str, tuple[str, ...]]) -> str | None:
    """Returns the owner whose family `name` begins with; None without one.

    Args:
        name: the name of a model without its owner, in lower case.
        makers: owner → the first words of its models' names. A word ends before the next letter that follows it:
            `phi-4` begins with `phi`, and `phind-34b` does not.
    """
    for owner, families in makers.items():
        for family in families:
            if name.startswith(family) and not name[len(family) : len(family) + 1].isalpha():
                return owner
    return None
