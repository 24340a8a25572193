"""The inference endpoints that the gateway serves; one route is registered for each row."""

from __future__ import annotations

from app.services.endpoints.chat import CHAT
from app.services.endpoints.endpoint import Endpoint
from app.services.endpoints.messages import MESSAGES
from app.services.endpoints.responses import RESPONSES

ENDPOINTS: tuple[Endpoint, ...] = (CHAT, MESSAGES, RESPONSES)
