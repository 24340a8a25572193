"""Whatever JSON a provider sends as an event, reading it does not raise, and clients get only valid events."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from app.services.endpoints import CHAT
from app.services.streaming import EventReader
from tests.support.soak import examples

ODD = st.sampled_from([10**13, 10**30, -1, 3.5, float("nan"), float("inf"), "\ud83d", "", "0", True, None, [], {}])
VALUES = st.recursive(
    ODD | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=5,
)


def some_of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Returns a strategy for objects with some of these fields, each with a valid value or any other."""
    return st.fixed_dictionaries({}, optional={name: values | VALUES for name, values in fields.items()})


USAGES = some_of(
    prompt_tokens=st.integers(0, 99),
    completion_tokens=st.integers(0, 99),
    prompt_tokens_details=some_of(cached_tokens=st.integers(0, 99)),
)
CHOICES = some_of(
    index=st.integers(0, 3),
    delta=some_of(content=st.text(max_size=5), tool_calls=VALUES),
    finish_reason=st.sampled_from(["stop", "error"]),
    logprobs=VALUES,
)
CHUNKS = some_of(
    model=st.text(max_size=5),
    choices=st.lists(CHOICES | VALUES, max_size=3),
    usage=USAGES,
    error=some_of(message=st.text(max_size=5), code=st.integers(400, 599)),
    message=st.text(max_size=5),
    object=st.sampled_from(["error", "chat.completion.chunk"]),
)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@settings(max_examples=examples(300), deadline=None)
@given(CHUNKS | VALUES, st.sampled_from([b"", b"event: error\n", b"event: ping\n", b"id: 7\n"]), st.booleans())
def test_any_json_is_read_and_what_clients_get_is_a_chunk_a_comment_or_an_error(
    value: Any, fields: bytes, ends: bool
) -> None:
    reader = EventReader(CHAT, "Provider", key_setting="KEY", show_usage=True)
    event = fields + b"data: " + json.dumps(value).encode()
    shown = reader.read(event + b"\n\n", 1.0) if ends else reader.read(event, 1.0) + reader.read_end(1.0)
    for block in shown.split(b"\n\n"):
        data = [line[6:] for line in block.split(b"\n") if line.startswith(b"data: ")]
        assert data or block in {b"", b": keep-alive"}
        if data:
            chunk = json.loads(b"\n".join(data).decode(), parse_constant=refuse_constant)
            assert chunk.get("error") or all(isinstance(choice["delta"], dict) for choice in chunk["choices"])
    usage = reader.summary.usage
    assert usage is None or all(0 <= (count or 0) <= 10**9 for count in (usage.prompt_tokens, usage.completion_tokens))
