"""The summary of a response: the model, the usage, the finish reasons, and the arrival times of its events."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one request as counted by the provider; None for a number that it does not state.

    Attributes:
        prompt_tokens: the whole prompt, including cached tokens.
        completion_tokens: the whole output, including reasoning.
        cached_tokens: the prompt tokens from the provider's cache.
        reasoning_tokens: the output tokens that were reasoning.
        cost_usd: the cost that the provider states; most state none.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: float | None = None


class ResponseSummary(NamedTuple):
    """The summary of a whole response; None for a value that it does not state.

    Attributes:
        model: the model that responded, as the provider names it.
        finish_reason: the finish reason of the first choice.
        usage: the provider's counts.
        output_tokens_estimate: an estimate if the usage lacks the completion tokens, or there is no usage.
        failure: the part that reports a failure of the provider during generation, for example a choice.
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
        choices_expected: the least number of choices that must finish.
        begun, finished: the indexes of the choices that have begun, and of those that have their finish reason.
        is_done: whether the end marker came after everything was complete.
        events: the number of events that are part of the response; comments and the end marker are not counted.
        output_events: events with output of the model, which estimate the completion tokens if no usage arrives.
        bytes_received: the bytes of the stream that have arrived.
        bytes_sent: bytes that were sent to the client.
        first_output_s, last_output_s: the arrival times of the first and the last event with output.
        longest_gap_s: the longest time between two arrivals.
        last_arrival_s, last_sent_s: the times of the last arrival of bytes, and of the last sending to the client.
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
