"""One request for embeddings, from the key check to the response."""

from dataclasses import dataclass
from typing import Any

from app.sandbox.failures import RequestRefused, make_front_failure, make_server_failure
from app.sandbox.providers import Provider
from app.sandbox.request_frame import Call, read_call
from app.sandbox.state import State
from app.sandbox.tokens import count_tokens
from app.sandbox.validation import EXTRA
from app.sandbox.vectors import encode_base64, make_vector
from app.sandbox.web import Request, Response

# Fireworks' older models, which are not in its list, and the lengths of their vectors.
_UNLISTED = {
    "BAAI/bge-base-en-v1.5": 768,
    "BAAI/bge-small-en-v1.5": 384,
    "WhereIsAI/UAE-Large-V1": 1024,
    "mixedbread-ai/mxbai-embed-large-v1": 1024,
    "nomic-ai/nomic-embed-text-v1.5": 768,
    "thenlper/gte-base": 768,
    "thenlper/gte-large": 1024,
}
_LENGTH = 1024  # For all other models, except Qwen's.
_QWEN_LENGTH = 4096
_FIELDS = {
    "model", "input", "encoding_format", "dimensions", "prompt_template", "normalize", "return_logits", "input_type",
}  # fmt: skip
_MAX_INPUTS = 1024  # DeepInfra's limit.
_LEAST_DIMENSIONS = 32


@dataclass(frozen=True)
class _Model:
    id: str
    length: int
    is_resizable: bool


def handle_embeddings(provider: Provider, state: State, request: Request) -> Response:
    """Handles POST …/embeddings; raises RequestRefused with the error body of the provider."""
    call = read_call(provider, state, request)
    model = _find_model(call)
    call.fail_on_demand()
    if provider.validates:
        _raise_if_extra(call.body)
    texts = _read_texts(provider, call.body)
    payload = _make_response(provider, model, call.body, texts)
    call.book(model.id, sum(map(count_tokens, texts)))
    return call.make_whole(payload)


def _find_model(call: Call) -> _Model:
    provider, name = call.provider, call.model
    if provider.validates and name in _UNLISTED:
        return _Model(name, _UNLISTED[name], name.startswith("nomic-ai/"))
    found = provider.find_model(call.state.options, name)
    if found is None and not call.behaviour.kind:
        raise RequestRefused(provider.get_failure("404"))
    if found is not None and found.chat and not call.behaviour.kind:
        if not provider.validates:
            raise RequestRefused(provider.get_failure("400"))
        raise RequestRefused(make_front_failure(400, "embedding is not supported", "BAD_REQUEST", "model"))
    is_qwen = "qwen3-embedding" in name.lower()
    return _Model(found.id if found else name, _QWEN_LENGTH if is_qwen else _LENGTH, is_qwen)


def _raise_if_extra(body: dict[str, Any]) -> None:
    for name in body.keys() - _FIELDS:
        raise RequestRefused(make_server_failure(400, f"{EXTRA}, field: '{name}'"))


def _read_texts(provider: Provider, body: dict[str, Any]) -> list[str]:
    """Returns the inputs as texts: token ids become `<17>`, objects fill the template."""
    value = body.get("input")
    items = value if isinstance(value, list) and value and not isinstance(value[0], int) else [value]
    template = str(body.get("prompt_template") or "")
    if provider.validates and not template and any(isinstance(item, dict) for item in items):
        raise RequestRefused(make_server_failure(400, "Field required for objects as input, field: 'prompt_template'"))
    texts = [_read_text(item, template) for item in items]
    is_plain = all(isinstance(item, str) for item in items)
    formats = ("float", "base64")
    if provider.estimates_cost and (not is_plain or len(items) > _MAX_INPUTS):
        raise RequestRefused(provider.get_failure("400"))
    if any(text is None for text in texts) or body.get("encoding_format", "float") not in formats:
        failure = make_server_failure(400, "Input should be a valid string or list, field: 'input'")
        raise RequestRefused(failure if provider.validates else provider.get_failure("400"))
    return [text or "" for text in texts]


def _read_text(item: Any, template: str) -> str | None:
    if isinstance(item, str):
        return item
    if isinstance(item, dict) and template:
        return _fill(template, item)
    if isinstance(item, list) and item and all(isinstance(token, int) for token in item):
        return "".join(f"<{token}>" for token in item)
    return None


def _fill(template: str, values: dict[str, Any]) -> str:
    """Returns a template with the values in place of their names in braces."""
    for name, value in values.items():
        template = template.replace("{" + name + "}", str(value))
    return template


def _make_response(provider: Provider, model: _Model, body: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    wanted = body.get("dimensions")
    length = _choose_length(provider, model, wanted)
    vectors = [make_vector(model.id, text, length) for text in texts]
    if provider.estimates_cost and wanted and wanted > length:
        vectors = [vector + [0.0] * (wanted - length) for vector in vectors]
    # Featherless always sends numbers, whatever was requested.
    in_base64 = body.get("encoding_format") == "base64" and provider.name != "featherless"
    tokens = sum(map(count_tokens, texts))
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": at, "embedding": encode_base64(vector) if in_base64 else vector}
            for at, vector in enumerate(vectors)
        ],
        "model": model.id,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _choose_length(provider: Provider, model: _Model, wanted: Any) -> int:
    if wanted is None:
        return model.length
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise RequestRefused(provider.get_failure("400"))
    if provider.validates and not model.is_resizable:
        raise RequestRefused(make_server_failure(400, f"model: {model.id} is not resizable"))
    if provider.estimates_cost:
        if wanted < _LEAST_DIMENSIONS:
            raise RequestRefused(provider.get_failure("400"))
        return min(wanted, model.length)  # The rest is filled with zeros.
    if wanted > model.length:
        text = f"Input should be less than or equal to {model.length}, field: 'dimensions', value: {wanted}"
        raise RequestRefused(make_server_failure(400, text) if provider.validates else provider.get_failure("400"))
    return wanted
