"""What one sandbox process holds: its options, its counters and the attempts `sandbox-flaky` remembers."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Enough for any test run; beyond it the oldest prompts are forgotten so that memory stays bounded.
_REMEMBERED_PROMPTS = 10_000


@dataclass(frozen=True)
class Options:
    """How the sandbox was started: the pause between events in seconds, the size of Featherless' list."""

    pace_s: float = 0.02  # 50 tokens a second, what a large hosted model gives.
    featherless_models: int = 22_000  # What the real list held in 2026.

    @property
    def first_event_s(self) -> float:
        """The wait before the first event: two and a half paces, 50 ms at the default pace."""
        return 2.5 * self.pace_s


@dataclass
class Stats:
    """The counters behind GET /sandbox/stats; reading them is not counted."""

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
        """Return the counters as a JSON-ready dict.

        streams_aborted counts clients that left, streams_cut the streams that the sandbox broke off on
        purpose, streams_started minus the three others those still running. completion_tokens counts the
        tokens sent, so an aborted stream counts for what was generated until then.
        """
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


@dataclass
class State:
    """Everything a request handler may read or change."""

    options: Options
    stats: Stats = field(default_factory=Stats)
    _attempts: dict[tuple[str, str], int] = field(default_factory=dict)

    def count_attempt(self, model: str, prompt: str) -> int:
        """Return how many times this model has now been asked this prompt, the present time included."""
        key = (model, prompt)
        self._attempts[key] = self._attempts.get(key, 0) + 1
        if len(self._attempts) > _REMEMBERED_PROMPTS:
            del self._attempts[next(iter(self._attempts))]
        return self._attempts[key]
