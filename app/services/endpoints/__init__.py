"""The inference endpoints: one record each, which tells the pipeline all that differs between them.

endpoint.py         the types of the record
registry.py         ENDPOINTS, the records that have a route
chat.py             chat completions; chat_assembly.py puts chunks together to one completion
stream_summary.py   what is remembered of a response: usage, ends, times
"""

from app.services.endpoints.chat import CHAT
from app.services.endpoints.endpoint import (
    OPENAI_ERRORS,
    Collector,
    Endpoint,
    ErrorShape,
    EventKind,
    InferenceBody,
    StreamProtocol,
    make_parameter_error,
)
from app.services.endpoints.registry import ENDPOINTS
from app.services.endpoints.stream_summary import ResponseSummary, StreamSummary, Usage

__all__ = [
    "CHAT",
    "ENDPOINTS",
    "OPENAI_ERRORS",
    "Collector",
    "Endpoint",
    "ErrorShape",
    "EventKind",
    "InferenceBody",
    "ResponseSummary",
    "StreamProtocol",
    "StreamSummary",
    "Usage",
    "make_parameter_error",
]
