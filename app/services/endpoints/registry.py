"""The inference endpoints that the gateway serves; one route is registered for each row."""

from __future__ import annotations

from app.services.endpoints.chat import CHAT
from app.services.endpoints.completions import COMPLETIONS
from app.services.endpoints.embeddings import EMBEDDINGS
from app.services.endpoints.endpoint import Endpoint
from app.services.endpoints.messages import MESSAGES
from app.services.endpoints.rerank import COHERE_RERANK, RERANK
from app.services.endpoints.responses import RESPONSES

ENDPOINTS: tuple[Endpoint, ...] = (CHAT, COMPLETIONS, EMBEDDINGS, RERANK, COHERE_RERANK, MESSAGES, RESPONSES)
