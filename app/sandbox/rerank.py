"""One request to rank documents: Fireworks' own endpoint, and DeepInfra's, which scores pairs of texts.

The score of a document is its similarity to the query, by the words and parts of words that they share.
"""

from typing import Any, TypeGuard

from app.sandbox.failures import RequestRefused, make_front_failure, make_server_failure
from app.sandbox.providers import DEEPINFRA, FIREWORKS
from app.sandbox.request_frame import Call, read_call
from app.sandbox.state import State
from app.sandbox.tokens import count_tokens
from app.sandbox.validation import EXTRA
from app.sandbox.vectors import get_similarity
from app.sandbox.web import Request, Response

# Its own API, beside the OpenAI-compatible one, has the model in the path.
DEEPINFRA_MODELS = "/deepinfra/v1/inference/"

_FIELDS = {"model", "query", "documents", "top_n", "return_documents", "task"}
_DEEPINFRA_COST = 0.05  # USD per million tokens.


def handle_fireworks_rerank(state: State, request: Request) -> Response:
    """Handles POST …/rerank; raises RequestRefused with the error body of Fireworks."""
    call = read_call(FIREWORKS, state, request)
    _raise_unless_reranker(call)
    call.fail_on_demand()
    body = call.body
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
        "model": call.model,
        "data": [
            {"index": index, "relevance_score": scores[index], "document": documents[index] if shows else None}
            for index in best
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    call.book(call.model, tokens)
    return call.make_whole(payload)


def handle_deepinfra_rerank(state: State, request: Request, name: str) -> Response:
    """Handles POST /v1/inference/<model>; raises RequestRefused with the error body of DeepInfra."""
    call = read_call(DEEPINFRA, state, request, name)
    _raise_unless_reranker(call)
    call.fail_on_demand()
    queries, documents = call.body.get("queries"), call.body.get("documents")
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
    call.book(call.model, tokens)
    return call.make_whole(payload)


def _raise_unless_reranker(call: Call) -> None:
    if call.behaviour.kind:
        return
    if call.provider.find_model(call.state.options, call.model) is None:
        raise RequestRefused(call.provider.get_failure("404"))
    if "rerank" not in call.model.lower():
        failure = make_front_failure(400, "reranking is not supported", "BAD_REQUEST", "model")
        raise RequestRefused(failure if call.provider.validates else call.provider.get_failure("400"))


def _are_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)


def _score(queries: list[str], documents: list[str]) -> list[float]:
    return [round(get_similarity(query, text), 4) for query, text in zip(queries, documents, strict=True)]


def _count(*texts: list[str]) -> int:
    return sum(count_tokens(text) for each in texts for text in each)
