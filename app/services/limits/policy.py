"""The limits of a key: the subjects that its requests count for, with their limits, as the keys' snapshot has them."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from app.db.limit_tables import GATEWAY_ID
from app.yielding import with_pauses


class Budget(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An amount that the requests of a subject may cost in a window of time.

    Attributes:
        id: its id in the database.
        unit: what the amount counts.
        amount: a decimal number, in that unit.
        window: "day", "week", "month", "total", "rolling:24h" or "rolling:30d"; see periods.py.
        timezone: the time zone in which a day begins, for instance "Europe/Berlin".
        first_day: with which day a week (1 is Monday) or a month begins.
        warn_percents: from which shares of the amount on the subject is warned, ascending.
    """

    id: int
    unit: Literal["usd", "tokens", "requests"]
    amount: str
    window: str
    timezone: str
    first_day: int
    warn_percents: tuple[int, ...]


class Subject(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Whose requests a limit counts; None and () mean no limit.

    Attributes:
        id: its id in the database; GATEWAY_ID for the gateway.
        kind: a holder of keys, a group of holders, or the gateway.
        name: its name, which refusals and warnings tell the caller.
        group_id: the group of a holder, or None.
        models: patterns of `provider/model id`, of which one must match.
        requests_per_minute: requests in any 60 s.
        tokens_per_minute: prompt and output tokens in any 60 s.
        concurrent: requests that are being served at once.
        max_output_tokens: the most output tokens that a request may ask for.
        budgets: all must have room.
    """

    id: str
    kind: Literal["holder", "group", "gateway"]
    name: str
    group_id: str | None
    models: tuple[str, ...]
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    max_output_tokens: int | None
    budgets: tuple[Budget, ...]

    def has_limits(self) -> bool:
        """Returns whether a request can be refused for this subject."""
        bounds = (self.requests_per_minute, self.tokens_per_minute, self.concurrent, self.max_output_tokens)
        return bool(self.models or self.budgets) or any(bound is not None for bound in bounds)


class Policy(msgspec.Struct, frozen=True, gc=False):
    """All limits of a key: those of its holder, of the holder's group, and of the gateway.

    Attributes:
        subjects: those of them that have limits, at least one, in this order.
        models: the patterns of each subject that has some; a model must match one of each.
        max_output_tokens: the least of the subjects' bounds; None without any.
    """

    subjects: tuple[Subject, ...]
    models: tuple[tuple[str, ...], ...]
    max_output_tokens: int | None

    def allows(self, provider: str, model: str) -> bool:
        """Returns whether a request may be sent to this model of this provider, regardless of case.

        The part after a `#` in a model's id names a deployment of the model, and counts for no pattern.
        """
        name = f"{provider}/{model.partition('#')[0]}".lower()
        return all(any(matches(pattern, name) for pattern in patterns) for patterns in self.models)


def matches(pattern: str, name: str) -> bool:
    """Returns whether a pattern of models or providers stands for a name, in lower case.

    `*` stands for any text, also with slashes in it; no other character is special. A name that no list has can match
    too: `*/example` also allows a model of this name that another account of a provider has published.
    """
    return fnmatchcase(name, pattern.lower().replace("[", "[[]").replace("?", "[?]"))


def make_policies(subjects: Mapping[str, Subject]) -> dict[str, Policy]:
    """Returns the policies of all keys: holder's id → policy, and "" → that of keys without a holder.

    Those without any limit are missing, so that their requests skip all of it. Other greenlets run in between: a
    thousand holders take some milliseconds.

    Args:
        subjects: id → subject, for all holders and groups, and the gateway.
    """
    gateway = subjects.get(GATEWAY_ID)
    policies = {"": _make_policy([gateway])}
    for subject in with_pauses(subjects.values()):
        if subject.kind == "holder":
            policies[subject.id] = _make_policy([subject, subjects.get(subject.group_id or ""), gateway])
    return {holder: policy for holder, policy in policies.items() if policy is not None}


def _make_policy(subjects: list[Subject | None]) -> Policy | None:
    limiting = tuple(subject for subject in subjects if subject is not None and subject.has_limits())
    if not limiting:
        return None
    bounds = [subject.max_output_tokens for subject in limiting if subject.max_output_tokens is not None]
    return Policy(
        subjects=limiting,
        models=tuple(subject.models for subject in limiting if subject.models),
        max_output_tokens=min(bounds, default=None),
    )
