"""`POST /v1/rerank` and Cohere's `/v2/rerank`: sorts documents by how well they answer a query.

Providers score; the gateway sorts, cuts to `top_n` and adds the documents, so that every provider answers alike.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from msgspec import Meta

from app.errors import BadRequest, UpstreamError
from app.lenient_json import encode
from app.services.endpoints.endpoint import Endpoint, InferenceBody, make_parameter_error
from app.services.endpoints.prompts import estimate_tokens
from app.services.endpoints.stream_summary import ResponseSummary
from app.services.endpoints.token_bounds import bound_rerank_tokens
from app.services.endpoints.usage import read_input_usage

_QUERY = "be a string"
_DOCUMENTS = "be a list of strings or of objects with `text`, at least one"
_NO_SUCH = "No provider here knows `{0}`. Leave it out{1}."
_UNSUPPORTED = {
    "rank_fields": "; send documents as strings that contain what should be compared",
    "max_chunks_per_doc": "; send long documents in parts",
    "max_tokens_per_doc": "; shorten the documents",
}


class RerankBody(InferenceBody, kw_only=True):
    """The documented fields of a request to rerank documents."""

    query: Annotated[Any, Meta(extra={"must": _QUERY})]
    documents: Annotated[list[Any], Meta(min_length=1, extra={"must": _DOCUMENTS})]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    rank_fields: Any = None
    max_chunks_per_doc: Any = None
    max_tokens_per_doc: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.query, str):
            raise make_parameter_error("query", _QUERY, is_missing=self.query is None)
        if not self.query:
            raise make_parameter_error("query", "not be empty")
        for name, advice in _UNSUPPORTED.items():
            if getattr(self, name) is not None:
                raise BadRequest(_NO_SUCH.format(name, advice), param=name, code="unsupported_parameter")
        for position, document in enumerate(self.documents):
            if _get_text(document) is None:
                raise make_parameter_error(f"documents[{position}]", "be a string, or an object with `text`")


def _get_text(document: Any) -> str | None:
    text = document.get("text") if isinstance(document, dict) else document
    return text if isinstance(text, str) else None


def _prepare(body: dict[str, Any]) -> dict[str, None]:
    """Turns documents into texts, and leaves sorting, cutting and repeating the documents to the gateway.

    Returns:
        The names of the documents' other fields, which are not compared with the query.
    """
    documents = body["documents"]
    body["documents"] = [_get_text(document) for document in documents]
    for name in ("return_documents", "top_n", *_UNSUPPORTED):
        body.pop(name, None)
    objects = [document for document in documents if isinstance(document, dict)]
    return {f"documents[].{name}": None for document in objects for name in document if name != "text"}


def _estimate_prompt_tokens(body: dict[str, Any]) -> int:
    documents = body["documents"]
    return len(documents) * estimate_tokens([body["query"]]) + estimate_tokens(documents)


def _summarize(response: Any) -> ResponseSummary:
    results = response.get("results") if isinstance(response, dict) else None
    if not isinstance(results, list) or not results or not all(map(_is_result, results)):
        raise ValueError("not a ranking")
    model = response.get("model")
    return ResponseSummary(model if isinstance(model, str) else None, None, read_input_usage(response.get("usage")), 0)


def _is_result(result: Any) -> bool:
    if not isinstance(result, dict) or type(result.get("index")) is not int:
        return False
    return type(result.get("relevance_score")) in (int, float)


def _encode(response: dict[str, Any], fields: InferenceBody) -> bytes:
    """Returns the ranking in the form for clients of Cohere and of Jina, the best document first."""
    assert isinstance(fields, RerankBody)
    scores = {result["index"]: result["relevance_score"] for result in response["results"]}
    if scores.keys() != set(range(len(fields.documents))):
        raise UpstreamError(
            f"The provider ranked {len(scores)} documents, not the {len(fields.documents)} that it was sent, and may "
            "have charged for it. Check before you send the request again.",
            should_retry=False,
        )
    best = sorted(scores, key=lambda index: (-scores[index], index))[: fields.top_n]
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in best]
    if fields.return_documents:
        results = [{**result, "document": {"text": _get_text(fields.documents[result["index"]])}} for result in results]
    usage = read_input_usage(response.get("usage"))
    tokens = None if usage is None else usage.prompt_tokens
    # Cohere's clients read `meta`, Jina's read `usage`.
    shown = {
        "id": response.get("id"),
        "model": response.get("model") or fields.model,
        "results": results,
        "usage": None if tokens is None else {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": None if tokens is None else {"tokens": {"input_tokens": tokens}},
    }
    return encode({name: value for name, value in shown.items() if value is not None})


RERANK = Endpoint(
    name="rerank",
    path="/v1/rerank",
    title="a ranking",
    body=RerankBody,
    prepare=_prepare,
    estimate_prompt_tokens=_estimate_prompt_tokens,
    get_output_bound=lambda body: None,
    bound_tokens=bound_rerank_tokens,
    summarize=_summarize,
    normalise=lambda response: response,
    encode=_encode,
)

COHERE_RERANK = replace(RERANK, path="/v2/rerank")
