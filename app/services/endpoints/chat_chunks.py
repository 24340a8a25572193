"""Observes the chunks of a chat stream."""

from __future__ import annotations

from typing import Any

import msgspec

from app.services.endpoints.chat_repair import repair
from app.services.endpoints.chunk_stream import Choice, Chunk, Delta, make_observers, read_odd_choice


def _read_choice(choice: dict[str, Any]) -> Choice:
    delta = choice["delta"]
    return read_odd_choice(choice, Delta(*(delta.get(name) for name in Delta.__struct_fields__)))


observe_chat_chunk, note_chat_chunk, CHAT_STEPS = make_observers(
    msgspec.json.Decoder(Chunk).decode, repair, _read_choice
)
