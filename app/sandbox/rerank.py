"""One request to rank documents: Fireworks' own endpoint, and DeepInfra's, which scores pairs of texts.

The score of a document is its similarity to the query, by the words and parts of words that they share.
"""

from typing import Any, TypeGuard

from app.sandbox.behaviours import Behaviour, parse_behaviour
from app.sandbox.chat import apply_to_request, get_model_name, get_request_id, parse_body
from app.sandbox.failures import RequestRefused, make_front_failure, make_server_failure
from app.sandbox.faults import apply_to_body
from app.sandbox.providers import DEEPINFRA, FIREWORKS, Provider
from app.sandbox.response_body import ResponseBody
from app.sandbox.state import State
from app.sandbox.tokens import count_tokens
from app.sandbox.validation import EXTRA
from app.sandbox.vectors import get_similarity
from app.sandbox.web import Request, Response, dump_json

# Its own API, beside that of OpenAI, has the model in the path.
DEEPINFRA_MODELS = "/deepinfra/v1/inference/"

_FIELDS = {"model", "query", "documents", "top_n", "return_documents", "task"}
_DEEPINFRA_COST = 0.05  # USD per million tokens.


def handle_fireworks_rerank(state: State, request: Request) -> Response:
    """Handles POST …/rerank; raises RequestRefused with the error body of Fireworks."""
    FIREWORKS.raise_if_key_refused(request)
    body = parse_body(FIREWORKS, request)
    name = get_model_name(FIREWORKS, body)
    behaviour = _begin(FIREWORKS, state, request, name, body)
    for field in body.keys() - _FIELDS:
        raise RequestRefused(make_server_failure(400, f"{EXTRA}, field: '{field}'"))
    query, documents = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not _are_texts(documents):
        raise RequestRefused(make_server_failure(400, "Input should be a valid list of strings, field: 'documents'"))
    scores = _score([query] * len(documents), documents)
    best = sorted(range(len(documents)), key=lambda index: -scores[index])[: body.get("top_n")]
    shows = body.get("return_documents", True)
    tokens = _count(documents, [query] * len(documents))
    payload = {
        "object": "list",
        "model": name,
        "data": [
            {"index": index, "relevance_score": scores[index], "document": documents[index] if shows else None}
            for index in best
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return _respond(FIREWORKS, state, request, behaviour, payload, tokens)


def handle_deepinfra_rerank(state: State, request: Request, name: str) -> Response:
    """Handles POST /v1/inference/<model>; raises RequestRefused with the error body of DeepInfra."""
    DEEPINFRA.raise_if_key_refused(request)
    body = parse_body(DEEPINFRA, request)
    behaviour = _begin(DEEPINFRA, state, request, name, body)
    queries, documents = body.get("queries"), body.get("documents")
    if not _are_texts(queries) or not _are_texts(documents) or len(queries) != len(documents):
        raise RequestRefused(DEEPINFRA.get_failure("422"))
    tokens = _count(documents, queries)
    status = {"status": "succeeded", "runtime_ms": 1, "cost": tokens * _DEEPINFRA_COST / 1e6, "tokens_input": tokens}
    payload = {
        "scores": _score(queries, documents),
        "input_tokens": tokens,
        "request_id": request.id_hex,
        "inference_status": status,
    }
    return _respond(DEEPINFRA, state, request, behaviour, payload, tokens)


def _begin(provider: Provider, state: State, request: Request, name: str, body: dict[str, Any]) -> Behaviour | None:
    state.stats.by_model[name] += 1
    behaviour = parse_behaviour(name)
    model = provider.find_model(state.options, name)
    if model is None and not behaviour:
        raise RequestRefused(provider.get_failure("404"))
    if model is not None and not behaviour and "rerank" not in name.lower():
        failure = make_front_failure(400, "reranking is not supported", "BAD_REQUEST", "model")
        raise RequestRefused(failure if provider.validates else provider.get_failure("400"))
    if behaviour:
        apply_to_request(provider, state, request, behaviour, body)
    return behaviour


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _score(queries: list[str], documents: list[str]) -> list[float]:
    return [round(get_similarity(query, text), 4) for query, text in zip(queries, documents, strict=True)]


def _count(*texts: list[str]) -> int:
    return sum(count_tokens(text) for each in texts for text in each)


def _respond(
    provider: Provider, state: State, request: Request, behaviour: Behaviour | None, payload: object, tokens: int
) -> Response:
    state.stats.prompt_tokens += tokens
    content = b"<<< this is not JSON" if behaviour and behaviour.kind == "garbage" else dump_json(payload)
    headers = (("x-request-id", get_request_id(request)), *provider.headers)
    own = (("content-type", "application/json"), ("content-length", str(len(content))))
    events = apply_to_body(behaviour or Behaviour("", 0), content, state.options.first_event_s, 0)
    return Response(200, own + headers, ResponseBody(events, request.connection, state.stats, stream=False))
