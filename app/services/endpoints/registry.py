"""The inference endpoints that the gateway serves; one route is registered for each row."""

from __future__ import annotations

from app.services.endpoints.chat import CHAT
from app.services.endpoints.completions import COMPLETIONS
from app.services.endpoints.embeddings import EMBEDDINGS
from app.services.endpoints.endpoint import OPENAI_ERRORS, Endpoint, ErrorShape
from app.services.endpoints.messages import MESSAGES
from app.services.endpoints.rerank import COHERE_RERANK, RERANK
from app.services.endpoints.responses import RESPONSES

ENDPOINTS: tuple[Endpoint, ...] = (CHAT, COMPLETIONS, EMBEDDINGS, RERANK, COHERE_RERANK, MESSAGES, RESPONSES)


def find_error_shape(path: str) -> ErrorShape:
    """Returns the error shape of a path: that of the endpoint with this path or one above it."""
    found = (each.errors for each in ENDPOINTS if path == each.path or path.startswith(each.path + "/"))
    return next(found, OPENAI_ERRORS)
