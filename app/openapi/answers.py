"""Envelopes around the objects of the gateway's own API, and errors."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from app.services.administration import BudgetState, GroupView, HolderView, KeyView, LimitsView, OwnKey
from app.services.alias_administration import AliasView
from app.services.models import MergedModel, Model
from app.services.offers import OfferedModel


class ModelList(msgspec.Struct, kw_only=True):
    """Models in a form that the SDKs of OpenAI and of Anthropic read."""

    object: Literal["list"]
    data: list[MergedModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


class CatalogPage(msgspec.Struct, kw_only=True):
    """Models with prices and capabilities.

    Attributes:
        total: how many models match.
        fetched_at, age_s, stale: of the oldest of the providers' lists.
        unavailable: providers whose list is missing.
    """

    data: list[Model]
    total: int
    returned: int
    offset: int
    limit: int
    gateway: str
    fetched_at: str
    age_s: int
    stale: bool
    timestamp: str
    unavailable: list[str] | UnsetType = UNSET


class CatalogModel(msgspec.Struct, kw_only=True):
    """One model of the catalog, and how old the list is that it is from."""

    data: Model
    gateway: str
    fetched_at: str
    age_s: int
    stale: bool
    timestamp: str
    unavailable: list[str] | UnsetType = UNSET


class OfferList(msgspec.Struct, kw_only=True):
    """A model with everybody who serves it, and how old the lists are that they are from."""

    data: OfferedModel
    fetched_at: str
    age_s: int
    stale: bool
    timestamp: str
    unavailable: list[str] | UnsetType = UNSET


class OwnKeyAnswer(msgspec.Struct, kw_only=True):
    """A key as it sees itself."""

    data: OwnKey


class KeyAnswer(msgspec.Struct, kw_only=True):
    """A key; `warnings` say what may be a mistake in the request."""

    object: Literal["key"]
    data: KeyView
    warnings: list[str] | UnsetType = UNSET


class NewKeyAnswer(KeyAnswer, kw_only=True):
    """A new key. `key` is what its caller sends; it is in this answer and nowhere else."""

    key: str


class GroupAnswer(msgspec.Struct, kw_only=True):
    """A group; `warnings` say what may be a mistake in the request."""

    object: Literal["group"]
    data: GroupView
    warnings: list[str] | UnsetType = UNSET


class DeletedGroupAnswer(GroupAnswer, kw_only=True):
    """The group as it was."""

    deleted: bool


class GroupList(msgspec.Struct, kw_only=True):
    """All groups, by name."""

    object: Literal["list"]
    data: list[GroupView]
    has_more: bool


class HolderAnswer(msgspec.Struct, kw_only=True):
    """A holder of keys; `warnings` say what may be a mistake in the request."""

    object: Literal["holder"]
    data: HolderView
    warnings: list[str] | UnsetType = UNSET


class DeletedHolderAnswer(HolderAnswer, kw_only=True):
    """The holder as it was."""

    deleted: bool


class AliasList(msgspec.Struct, kw_only=True):
    """All aliases, by name."""

    object: Literal["list"]
    data: list[AliasView]
    has_more: bool


class AliasAnswer(msgspec.Struct, kw_only=True):
    """An alias; `warnings` say what may be a mistake in the request."""

    object: Literal["alias"]
    data: AliasView
    warnings: list[str] | UnsetType = UNSET


class DeletedAliasAnswer(AliasAnswer, kw_only=True):
    """The alias as it was."""

    deleted: bool


class LimitsAnswer(msgspec.Struct, kw_only=True):
    """The limits of the whole gateway."""

    object: Literal["limits"]
    data: LimitsView
    warnings: list[str] | UnsetType = UNSET


class BudgetAnswer(msgspec.Struct, kw_only=True):
    """A budget and its current period."""

    object: Literal["budget"]
    data: BudgetState


class EndedBudgetAnswer(BudgetAnswer, kw_only=True):
    """The budget as it was."""

    ended: bool


class Hello(msgspec.Struct, kw_only=True):
    """The answer of a gateway that runs."""

    service: str
    status: str


class Alive(msgspec.Struct, kw_only=True):
    """The process runs.

    Attributes:
        version: the version and a digest of the code.
    """

    status: str
    version: str


class ErrorDetails(msgspec.Struct, kw_only=True):
    """An error, with a message that says what to do.

    Attributes:
        message: one or more sentences for people.
        type: the class of the error, for programs to branch on.
        param: the field of the request or the setting at fault.
        code: a more specific name.
    """

    message: str
    type: str
    param: str | None
    code: str | None


class Error(msgspec.Struct, kw_only=True):
    """The form of all errors but those of Anthropic's API, in streams too."""

    error: ErrorDetails


class AnthropicErrorDetails(msgspec.Struct, kw_only=True):
    """An error, with a message that says what to do."""

    type: str
    message: str


class AnthropicError(msgspec.Struct, kw_only=True):
    """An error in the form of Anthropic's API."""

    type: Literal["error"]
    error: AnthropicErrorDetails
    request_id: str | UnsetType = UNSET
