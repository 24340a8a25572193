"""The inference endpoints: one record each, with everything in which they differ.

endpoint.py         the types of the record (provider_choice.py: `provider`); registry.py: ENDPOINTS, those with a route
translation.py      for endpoints served over another one; roles.py: the place of instructions
chat.py             chat completions; of chunks, _chunks observes, _repair repairs, _assembly joins, _events makes them
messages.py         Anthropic's API over chat: _body, _request (_history, _blocks, _tools), _response, _stream, _errors
responses.py        OpenAI's over chat: _request (_items, _content, _tools), _context, _output (_custom), _stream
chat_reading.py     chat as translations read it; output_sequence.py puts a stream of it into one item after another
completions.py      completions of a text (prompts.py has its forms): of a whole one, completion_assembly.py; of chunks,
                    completion_chunks.py; shares chunk_stream.py, choices.py, chunk_usage.py, odd_chunks.py with chat
deltas.py           merges deltas; tool_names.py: tools' names; token_bounds.py, token_estimate.py: tokens of a body
embeddings.py       embeddings (vectors.py); rerank.py: ranking; stream_summary.py, usage.py: facts of a response
"""

from app.services.endpoints.chat import CHAT
from app.services.endpoints.choices import OUTPUT_FIELDS
from app.services.endpoints.endpoint import (
    Collector,
    Endpoint,
    EventKind,
    InferenceBody,
    RepairedEvent,
    StreamProtocol,
    make_parameter_error,
)
from app.services.endpoints.messages import estimate_message_tokens
from app.services.endpoints.messages_body import CountTokensBody
from app.services.endpoints.provider_choice import MAX_PROVIDER_NAMES, SORT_SUFFIXES, MaxPrice, ProviderChoice, Sort
from app.services.endpoints.registry import ENDPOINTS, find_error_shape
from app.services.endpoints.roles import replace_developer_role
from app.services.endpoints.stream_summary import ResponseSummary, StreamSummary, Usage
from app.services.endpoints.translation import EventWriter, Translated

__all__ = [
    "CHAT", "ENDPOINTS", "MAX_PROVIDER_NAMES", "OUTPUT_FIELDS", "SORT_SUFFIXES", "Collector", "CountTokensBody",
    "Endpoint", "EventKind", "EventWriter", "InferenceBody", "MaxPrice", "ProviderChoice", "RepairedEvent",
    "ResponseSummary", "Sort", "StreamProtocol", "StreamSummary", "Translated", "Usage", "estimate_message_tokens",
    "find_error_shape", "make_parameter_error", "replace_developer_role",
]  # fmt: skip
