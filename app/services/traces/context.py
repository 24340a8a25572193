"""W3C Trace Context: reads a client's `traceparent` and `tracestate`, and makes those for a provider.

https://www.w3.org/TR/trace-context/. A valid header is continued under its trace id. A malformed one is replaced by a
new trace, and its `tracestate`, which belongs to it, is left out. A request without the header has no trace, unless the
gateway exports spans.
"""

from __future__ import annotations

import random
import re

# The version, the id of the trace, the id of the client's span, and flags. Later versions may add parts at the end.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_FORBIDDEN_VERSION = "ff"
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
# The flags that the standard defines: sampled, and random trace id. Others must be sent as zero.
_SAMPLED, _RANDOM = 1, 2

# A member of tracestate, `key=value`; a key may name a tenant and a system.
_MEMBER = re.compile(
    r"(?:[a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]",
    re.ASCII,
)
_MOST_MEMBERS = 32
# The standard requires at least this many characters; a longer state is left out as a whole.
_MOST_STATE_CHARACTERS = 512


class TraceContext:
    """The trace that a request belongs to.

    Attributes:
        trace_id: 32 hexadecimal digits.
        parent_id: the client's span, 16 digits; None in a trace that begins here.
        flags: as defined by the standard; 1 is "sampled".
        state: the client's tracestate; None without one.
    """

    __slots__ = ("flags", "parent_id", "state", "trace_id")

    def __init__(self, trace_id: str, parent_id: str | None, flags: int, state: str | None = None) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.flags = flags
        self.state = state

    @property
    def is_sampled(self) -> bool:
        """Whether the client that began the trace wants its spans recorded."""
        return bool(self.flags & _SAMPLED)

    def make_headers(self, span_id: str | None = None) -> dict[str, str]:
        """Returns the headers of a request to a provider.

        Args:
            span_id: the span that sends it. None passes on the client's: without spans of its own, the gateway takes no
                part in the trace.
        """
        parent_id = span_id or self.parent_id or make_span_id()
        headers = {"traceparent": f"00-{self.trace_id}-{parent_id}-{self.flags:02x}"}
        if self.state is not None:
            headers["tracestate"] = self.state
        return headers


def read_trace_context(
    traceparent: str | None, tracestate: str | None = None, *, samples: bool = False
) -> TraceContext:
    """Returns the trace that a client's headers continue, or a new one if `traceparent` is missing or malformed.

    Args:
        samples: whether the spans of a new trace are recorded.
    """
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match is None:
        return _start_trace(samples)
    version, trace_id, parent_id, flags, rest = match.groups()
    if version == _FORBIDDEN_VERSION or (version == "00" and rest is not None):
        return _start_trace(samples)
    if trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return _start_trace(samples)
    return TraceContext(trace_id, parent_id, int(flags, 16) & (_SAMPLED | _RANDOM), _read_state(tracestate))


def _start_trace(samples: bool) -> TraceContext:
    return TraceContext(f"{random.getrandbits(128) or 1:032x}", None, _RANDOM | (_SAMPLED if samples else 0))


def make_span_id() -> str:
    """Returns an id for a span, 16 hexadecimal digits."""
    return f"{random.getrandbits(64) or 1:016x}"


def _read_state(text: str | None) -> str | None:
    """Returns the members of a tracestate, without optional blanks; None if the standard says to leave it out."""
    if not text or len(text) > _MOST_STATE_CHARACTERS:
        return None
    members = [member.strip(" \t") for member in text.split(",")]
    members = [member for member in members if member]  # Empty ones are allowed.
    keys = {member.partition("=")[0] for member in members}
    is_valid = len(keys) == len(members) <= _MOST_MEMBERS and all(map(_MEMBER.fullmatch, members))
    return ",".join(members) if members and is_valid else None
