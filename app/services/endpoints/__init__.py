"""The inference endpoints: one record each, with everything in which they differ.

endpoint.py         the types of the record
registry.py         ENDPOINTS, the records that have a route
chat.py             chat completions; of chunks, _chunks reads, _repair repairs, _assembly joins, _events makes them
completions.py      completions of a text (prompts.py has its forms); odd_chunks.py reads odd chunks of both
embeddings.py       embeddings; vectors.py passes and converts the vectors
rerank.py           ranking of documents
stream_summary.py   what is kept of a response: usage (usage.py reads it), finish reasons, times
"""

from app.services.endpoints.chat import CHAT
from app.services.endpoints.endpoint import (
    OPENAI_ERRORS,
    Collector,
    Endpoint,
    ErrorShape,
    EventKind,
    InferenceBody,
    RepairedEvent,
    StreamProtocol,
    make_parameter_error,
)
from app.services.endpoints.registry import ENDPOINTS
from app.services.endpoints.stream_summary import ResponseSummary, StreamSummary, Usage

__all__ = [
    "CHAT", "ENDPOINTS", "OPENAI_ERRORS", "Collector", "Endpoint", "ErrorShape", "EventKind", "InferenceBody",
    "RepairedEvent", "ResponseSummary", "StreamProtocol", "StreamSummary", "Usage", "make_parameter_error",
]  # fmt: skip
