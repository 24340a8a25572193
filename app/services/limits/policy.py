"""The limits of a key: the subjects that its requests count for, with their limits, as in the snapshot of the keys."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from app.db.limit_tables import GATEWAY_ID
from app.yielding import with_pauses


class Budget(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An amount that a subject's requests may use in a window of time.

    Attributes:
        id: its id in the database.
        unit: the unit of the amount.
        amount: a decimal number, in that unit.
        window: "day", "week", "month", "total", "rolling:24h" or "rolling:30d"; see periods.py.
        timezone: the time zone in which a day begins, for instance "Europe/Berlin".
        first_day: the day with which a week (1 is Monday) or a month begins.
        warn_percents: the shares of the amount at which the subject is warned, ascending.
    """

    id: int
    unit: Literal["usd", "tokens", "requests"]
    amount: str
    window: str
    timezone: str
    first_day: int
    warn_percents: tuple[int, ...]


class Subject(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A holder, group or gateway whose requests the limits count; None and () mean no limit.

    Attributes:
        id: its id in the database; GATEWAY_ID for the gateway.
        kind: a holder of keys, a group of holders, or the gateway.
        name: its name, which the caller sees in refusals and warnings.
        group_id: the group of a holder, or None.
        models: patterns of `provider/model id`, of which one must match.
        requests_per_minute: requests in any 60 s.
        tokens_per_minute: prompt and output tokens in any 60 s.
        concurrent: requests that are being served at once.
        max_output_tokens: the most output tokens that a request may ask for.
        budgets: a request needs room in all of them.
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
        """Returns whether a limit of this subject can refuse a request."""
        bounds = (self.requests_per_minute, self.tokens_per_minute, self.concurrent, self.max_output_tokens)
        return bool(self.models or self.budgets) or any(bound is not None for bound in bounds)


class Policy(msgspec.Struct, frozen=True, gc=False):
    """All limits of a key: those of its holder, of the holder's group, and of the gateway.

    Attributes:
        subjects: the subjects with limits, at least one, in this order.
        models: the patterns of each subject that has some; a model must match at least one of each subject's.
        max_output_tokens: the least of the subjects' bounds; None without any.
    """

    subjects: tuple[Subject, ...]
    models: tuple[tuple[str, ...], ...]
    max_output_tokens: int | None

    def allows(self, provider: str, model: str) -> bool:
        """Returns whether a request may be sent to this model of this provider, ignoring case.

        A model's id may have a part after `#`, which names a deployment; patterns ignore it.
        """
        name = f"{provider}/{model.partition('#')[0]}".lower()
        return all(any(matches(pattern, name) for pattern in patterns) for patterns in self.models)


def matches(pattern: str, name: str) -> bool:
    """Returns whether a pattern of models or providers stands for a name, in lower case.

    `*` stands for any text, including slashes; no other character is special. A name can match even if no list has it:
    `*/example` also allows a model of this name published by another account of a provider.
    """
    return fnmatchcase(name, pattern.lower().replace("[", "[[]").replace("?", "[?]"))


def make_policies(subjects: Mapping[str, Subject]) -> dict[str, Policy]:
    """Returns the policies of all keys: holder's id → policy, and "" → the policy of keys without a holder.

    Policies without any limit are left out, so that their requests skip the limits entirely. Other greenlets run in
    between: a thousand holders take some milliseconds.

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
