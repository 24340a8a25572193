"""The inference endpoints: one record each, with everything in which they differ.

endpoint.py         the types of the record
registry.py         ENDPOINTS, the records that have a route
chat.py             chat completions; chat_assembly.py assembles chunks into one completion
usage.py            reads the usage that a provider sends, field by field
stream_summary.py   what is kept of a response: usage, finish reasons, times
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
