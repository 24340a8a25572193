"""The settings of this process as an operator may see them: secrets only as set or not, and the source of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from app.config import ROOT, Settings, SettingsError, get_secrets, is_secret, load_settings, read_sources
from app.runtime import get_settings

Source = Literal["environment", ".env.local", ".env", "default"]

# Addresses that may have a secret in their path or query; only the host is shown.
_SECRET_PATHS = ("LIMITS_WEBHOOK",)
_HIDDEN = "•••"


class SettingReport(msgspec.Struct, frozen=True, kw_only=True):
    """One setting.

    Attributes:
        value: as text; None if it is not set, and for secrets.
        is_set: whether it has a value.
        is_secret: whether its value is hidden.
        source: where the value comes from now.
        is_changed: whether the files now say something else than this process has, so that a restart would change it.
        about: what `.env` says about it; "" if nothing.
    """

    name: str
    value: str | None
    is_set: bool
    is_secret: bool
    source: Source
    is_changed: bool
    about: str


def get_setting_reports() -> list[SettingReport]:
    """Returns all settings, in their order in `.env`.

    If the files are invalid now, nothing counts as changed; if one cannot be read, every source is "default".
    """
    settings = get_settings()
    sources: Mapping[str, Source] = {}
    try:
        sources = read_sources()
        now = load_settings()
    except SettingsError:
        now = settings
    hidden = get_secrets(settings)
    reports = []
    for row in fields(Settings):
        name, value, default = row.metadata["name"], getattr(settings, row.name), row.metadata["default"]
        # The file that is shipped with the gateway has the defaults.
        is_default = default is not None and value == row.metadata["parse"](name, default)
        source: Source = sources.get(name, "default")
        reports.append(
            SettingReport(
                name=name,
                value=None if value is None or is_secret(name) else _format(name, value, hidden),
                is_set=value not in (None, ()),
                is_secret=is_secret(name),
                source="default" if is_default and source == ".env" else source,
                is_changed=value != getattr(now, row.name),
                about=_read_notes().get(name, ""),
            )
        )
    return reports


def _format(name: str, value: Any, hidden: list[str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | frozenset):
        return ", ".join(sorted(map(str, value)))
    if isinstance(value, Path):
        return str(value)
    text = str(value)
    if name in _SECRET_PATHS:
        parts = urlsplit(text)
        return f"{parts.scheme}://{parts.hostname}/{_HIDDEN}"
    for secret in hidden:
        text = text.replace(secret, _HIDDEN)
    return text


@cache
def _read_notes() -> dict[str, str]:
    """Returns setting → the comment above it in `.env`; several settings may share one."""
    notes: dict[str, str] = {}
    comment: list[str] = []
    was_comment = False
    try:
        lines = (ROOT / ".env").read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    for line in lines:
        is_comment = line.startswith("#")
        if is_comment:
            comment = [*comment, line.lstrip("# ")] if was_comment else [line.lstrip("# ")]
        elif match := re.match(r"([A-Z_]+)=", line):
            notes[match[1]] = " ".join(comment).replace("`", "")
        else:
            comment = []
        was_comment = is_comment
    return notes
