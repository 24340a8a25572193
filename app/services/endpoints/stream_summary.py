"""The summary of a response: the model, the usage, the finish reasons, and when its events arrived."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one request as the provider counts them; None if it does not say.

    Attributes:
        prompt_tokens: all of the prompt, cached tokens included.
        completion_tokens: all of the output, reasoning included.
        cached_tokens: those of the prompt that came from the provider's cache.
        reasoning_tokens: those of the output that were reasoning.
        cost_usd: what the provider says that the request cost; most say nothing.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None


class ResponseSummary(NamedTuple):
    """The summary of a whole response; None where the response does not say.

    Attributes:
        model: the model that responded, as the provider names it.
        finish_reason: that of the first choice.
        usage: what the provider counted.
        output_tokens_estimate: if the usage lacks the completion tokens, or there is none.
        failure: the part that says that the provider failed while it generated, for example a choice.
    """

    model: str | None
    finish_reason: str | None
    usage: Usage | None
    output_tokens_estimate: int | None = None
    failure: Any = None


class StreamSummary:
    """The summary of a stream so far. Times are on the monotonic clock, in seconds.

    Attributes:
        model: the model that responds, as the provider names it.
        usage: the last usage that arrived.
        finish_reason: the first one that arrived.
        choices_expected: how many choices must finish at least.
        begun, finished: the indexes of the choices that have begun, and of those that have their finish reason.
        is_done: whether the end marker came after everything was complete.
        events: events that are part of the response; comments and the end marker are not counted.
        output_events: events with output of the model, which estimate the completion tokens if no usage arrives.
        bytes_received: bytes of the stream that have arrived.
        bytes_sent: bytes that were sent to the client.
        first_output_s, last_output_s: when the first and the last event with output arrived.
        longest_gap_s: the longest time between two arrivals.
        last_arrival_s, last_sent_s: when bytes last arrived, and when bytes were last sent to the client.
    """

    __slots__ = (
        "begun",
        "bytes_received",
        "bytes_sent",
        "choices_expected",
        "events",
        "finish_reason",
        "finished",
        "first_output_s",
        "is_done",
        "last_arrival_s",
        "last_output_s",
        "last_sent_s",
        "longest_gap_s",
        "model",
        "output_events",
        "usage",
    )

    def __init__(self, choices_expected: int = 1) -> None:
        self.choices_expected = choices_expected
        self.model: str | None = None
        self.usage: Usage | None = None
        self.finish_reason: str | None = None
        self.begun: set[int] = set()
        self.finished: set[int] = set()
        self.is_done = False
        self.events = 0
        self.output_events = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.first_output_s: float | None = None
        self.last_output_s: float | None = None
        self.longest_gap_s = 0.0
        self.last_arrival_s = 0.0
        self.last_sent_s = 0.0
