"""The state of one sandbox process: its options, its counters and the attempts at `sandbox-flaky`."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from app.sandbox.books import Books

# Enough for any test run. Beyond it the oldest prompts are forgotten, to bound the memory.
_REMEMBERED_PROMPTS = 10_000


@dataclass(frozen=True)
class Options:
    """The start options of the sandbox: the pause between events in seconds, the size of Featherless' list."""

    pace_s: float = 0.02  # 50 tokens a second, as from a large hosted model.
    featherless_models: int = 22_000  # As many as the real list had in 2026.

    @property
    def first_event_s(self) -> float:
        """The wait before the first event, in seconds: 50 ms at the default pace."""
        return 2.5 * self.pace_s


@dataclass
class Stats:
    """The counters that GET /sandbox/stats shows; that request itself is not counted."""

    requests: int = 0
    by_path: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    by_status: Counter[str] = field(default_factory=Counter)
    streams_started: int = 0
    streams_finished: int = 0
    streams_aborted: int = 0
    streams_cut: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def get_summary(self) -> dict[str, Any]:
        """Returns the counters as a JSON-ready dict.

        streams_aborted counts streams whose client disconnected, streams_cut those that the sandbox broke off on
        purpose; streams_started minus the other three are still running. completion_tokens counts sent tokens,
        including those in aborted streams.
        """
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


@dataclass
class State:
    """Everything that a request handler may read or change."""

    options: Options
    stats: Stats = field(default_factory=Stats)
    books: Books = field(default_factory=Books)
    _attempts: dict[tuple[str, str], int] = field(default_factory=dict)

    def count_attempt(self, model: str, prompt: str) -> int:
        """Counts one more request with this model and prompt, and returns their number so far."""
        key = (model, prompt)
        self._attempts[key] = self._attempts.get(key, 0) + 1
        if len(self._attempts) > _REMEMBERED_PROMPTS:
            del self._attempts[next(iter(self._attempts))]
        return self._attempts[key]
