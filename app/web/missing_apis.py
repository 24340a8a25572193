"""Advice for callers of APIs that the gateway does not have."""

from __future__ import annotations

import re

_ROUTES = re.compile(
    r"(?:^|/)v\d\w*/(?:messages/)?"
    r"(?:(images|audio|moderations|files|batches|uploads|fine_tuning)(?:/|$)|(?<=v1/)responses/(input_tokens|compact)/?$|(?<=v1/)responses/.)"
)

_OFFERS = {
    "images": "send images to a model that accepts them, as parts of messages to /v1/chat/completions; "
    "none are generated",
    "audio": "send audio to a model that accepts it, as parts `input_audio` or `audio_url` of messages to "
    "/v1/chat/completions",
    "moderations": "send the text to a safety model from GET /v1/models, at /v1/chat/completions",
    "files": "send texts and images in the messages themselves to /v1/chat/completions",
    "uploads": "send texts and images in the messages themselves to /v1/chat/completions",
    "batches": "send the requests one by one or side by side; each has a record of its own",
    "fine_tuning": "fine-tune at the provider, and send the name of the new model in requests",
}

_OFFERS_OF_RESPONSES = {
    "input_tokens": "The gateway does not count the input of /v1/responses in advance. `usage` in each response has "
    "the provider's count, and POST /v1/messages/count_tokens estimates a conversation in the form of /v1/messages.",
    "compact": "The gateway does not compact conversations. Ask the model for a summary with POST /v1/responses, and "
    "send it in `input` in place of what it summarizes.",
}

_STORES_NONE = (
    "The gateway stores no responses, so none can be fetched, continued, cancelled or deleted. Send the whole "
    "conversation in the `input` of POST /v1/responses, and keep what you need of its response."
)


def describe_missing_api(path: str) -> str | None:
    """Returns the gateway's alternative to the API that `path` belongs to; None for any other path."""
    found = _ROUTES.search(path[:300])
    if found is None:
        return None
    name, of_responses = found[1], found[2]
    if of_responses is not None:
        return _OFFERS_OF_RESPONSES[of_responses]
    if name is None:
        return _STORES_NONE
    return f"This gateway has no {name.replace('_', '-')} API: {_OFFERS[name]}."
