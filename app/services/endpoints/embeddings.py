"""`POST /v1/embeddings`: texts to vectors, as numbers or in base64 as requested, whatever the provider sends."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta

from app.errors import BadRequest, UpstreamError
from app.services.endpoints.endpoint import OWN_FIELDS, Endpoint, InferenceBody, make_parameter_error
from app.services.endpoints.prompts import are_token_ids, estimate_tokens, read_prompts
from app.services.endpoints.stream_summary import ResponseSummary
from app.services.endpoints.token_bounds import bound_embedding_tokens
from app.services.endpoints.usage import read_input_usage
from app.services.endpoints.vectors import VectorResponse, decode_vectors, encode_vectors

_FORMS = "be a string, a list of strings, or objects for the model's `prompt_template`; none of the lists empty"
_FORMATS = 'be "float" or "base64"'


class EmbeddingBody(InferenceBody, kw_only=True):
    """The documented fields of a request for embeddings.

    Attributes:
        token_ids: whether `input` may be ids of tokens. This field is the gateway's own.
    """

    input: Annotated[Any, Meta(extra={"must": _FORMS})]
    encoding_format: Annotated[Literal["float", "base64"], Meta(extra={"must": _FORMATS})] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    token_ids: bool | None = None

    def __post_init__(self) -> None:
        if _are_objects(self.input):
            return
        prompts = read_prompts(self.input)
        if prompts is None:
            raise make_parameter_error("input", _FORMS, is_missing=self.input is None)
        if are_token_ids(prompts) and not self.token_ids:
            raise BadRequest(
                "`input` has token ids, which LangChain's OpenAIEmbeddings makes with OpenAI's tokenizer; to this "
                "model they are other words. Send strings: in LangChain, set check_embedding_ctx_length=False. If "
                'these are ids of the model\'s own tokenizer, send `"token_ids": true` beside them.',
                param="input",
                code="token_ids",
            )


def _are_objects(value: Any) -> bool:
    """Returns whether the input is an object, or a list with objects, which fill a template at the provider."""
    return isinstance(value, dict) or (isinstance(value, list) and set(map(type, value)) in ({dict}, {dict, str}))


def _count_inputs(value: Any) -> int:
    return (1 if isinstance(value, dict) else len(value)) if _are_objects(value) else len(read_prompts(value) or ())


def _estimate_prompt_tokens(body: dict[str, Any]) -> int:
    value = body["input"]
    if not _are_objects(value):
        return estimate_tokens(read_prompts(value) or ())
    items = [value] if isinstance(value, dict) else value
    texts = [list(item.values()) if isinstance(item, dict) else [item] for item in items]
    return estimate_tokens([text for each in texts for text in each if isinstance(text, str)])


def _summarize(response: Any) -> ResponseSummary:
    """Returns the summary of a response. A response without a vector is invalid, because SDKs cannot read it."""
    data = response.get("data") if isinstance(response, VectorResponse) else None
    if not isinstance(data, list) or not data or not all(_has_vector(response, item) for item in data):
        raise ValueError("not a list of embeddings")
    model = response.get("model")
    return ResponseSummary(model if isinstance(model, str) else None, None, read_input_usage(response.get("usage")), 0)


def _has_vector(response: VectorResponse, item: Any) -> bool:
    return isinstance(item, dict) and response.has_vector(item)


def _normalise(response: VectorResponse) -> VectorResponse:
    """Adds omitted fields, in place: `object`, `usage`, and for each entry `object` and `index`."""
    _add_missing(response, response, {"object": "list", "usage": None})
    for at, item in enumerate(response["data"]):
        if "object" not in item or "index" not in item:
            _add_missing(response, item, {"object": "embedding", "index": at})
    return response


def _add_missing(response: VectorResponse, value: dict[str, Any], fields: dict[str, Any]) -> None:
    for name, given in fields.items():
        if name not in value:
            value[name], response.is_changed = given, True


def _encode(response: VectorResponse, fields: InferenceBody) -> bytes:
    assert isinstance(fields, EmbeddingBody)
    asked, sent = _count_inputs(fields.input), len(response["data"])
    if asked != sent:
        raise UpstreamError(
            f"The provider sent {sent} embeddings for {asked} inputs, and may have charged for them. Check before you "
            "send the request again.",
            should_retry=False,
        )
    return encode_vectors(response, as_base64=fields.encoding_format == "base64")


EMBEDDINGS = Endpoint(
    name="embeddings",
    path="/v1/embeddings",
    title="a list of embeddings",
    body=EmbeddingBody,
    own_fields=OWN_FIELDS | {"token_ids"},
    estimate_prompt_tokens=_estimate_prompt_tokens,
    get_output_bound=lambda body: None,
    bound_tokens=bound_embedding_tokens,
    decode=decode_vectors,
    summarize=_summarize,
    normalise=_normalise,
    encode=_encode,
)
