"""What passed in a stream, kept for its record and for the truth about its end."""

from __future__ import annotations

from app.services.streaming.sse import Chunk, Usage


class Sightings:
    """What passed in a stream: tokens, ends, gaps. Times are on the monotonic clock, in seconds."""

    __slots__ = (
        "bytes_out",
        "done",
        "events",
        "finish_reason",
        "finished",
        "first_output_s",
        "last_output_s",
        "longest_gap_s",
        "model",
        "outputs",
        "seen",
        "usage",
    )

    def __init__(self) -> None:
        self.model: str | None = None
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.seen: set[int] = set()
        self.finished: set[int] = set()
        self.done = False
        self.events = 0
        self.outputs = 0  # Events with something the model produced: the count of tokens if no usage comes.
        self.bytes_out = 0
        self.first_output_s: float | None = None
        self.last_output_s: float | None = None
        self.longest_gap_s = 0.0

    @property
    def complete(self) -> bool:
        """True when every alternative that was begun has its finish reason."""
        return bool(self.finished) and self.seen <= self.finished

    def note(self, chunk: Chunk, now_s: float) -> None:
        """Takes in one chunk that arrived at `now_s`."""
        self.events += 1
        if self.model is None:
            self.model = chunk.model
        if chunk.usage is not None:
            self.usage = chunk.usage  # The last one counts: Chutes sends a running total with each chunk.
        for position, choice in enumerate(chunk.choices or ()):
            index = position if choice.index is None else choice.index
            self.seen.add(index)
            if choice.delta is not None and choice.delta.has_output():
                self.outputs += 1
                self.last_output_s = now_s
                if self.first_output_s is None:
                    self.first_output_s = now_s
            if choice.finish_reason:
                self.finished.add(index)
                self.finish_reason = self.finish_reason or choice.finish_reason
