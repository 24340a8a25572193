"""Checks each setting by itself, so that all mistakes are named at once, and prepares settings for the other checks."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from dataclasses import fields

from app.config import (
    Settings,
    SettingsError,
    find_misspelt_names,
    get_secrets,
    load_settings,
    read_environment,
    setting_names,
)
from app.doctor.results import Result, fail, ok, warn
from app.logs import hide_secrets
from app.runtime import get_settings, use_settings

# Heroku ends an answer after this long a silence, and kills a process this long after SIGTERM, in seconds.
_HEROKU_LIMIT_S = 30
# gunicorn's own variable would override the gateway's configuration.
_GUNICORN_ARGUMENTS = "GUNICORN_CMD_ARGS"
_WORD = re.compile(r"\w+")


def check_settings() -> Generator[Result, None, set[str]]:
    """Yields the results, and makes the valid settings those of this process.

    Returns:
        The names of settings that are unreadable or contradict others; here they have their defaults.
    """
    is_read = True
    try:
        values = read_environment()
    except SettingsError as error:
        is_read = False
        yield fail("settings", str(error))
        values = {name: value for name, value in os.environ.items() if value.strip()}
    given = set(values)
    settings, mistakes = _load_leniently(values)
    hide_secrets(get_secrets(settings))
    use_settings(settings)
    for mistake in mistakes:
        yield fail("settings", mistake)
    yield from _check_names(values)
    yield from _check_platform(settings)
    if is_read and not mistakes:
        names = [name for name in setting_names() if os.environ.get(name, "").strip()]
        yield ok("settings", f"all can be read; from the environment: {', '.join(names) or 'none'}, others from files")
    return given - set(values)


def describe_heroku_limit() -> str:
    """Returns a description of Heroku's router for silent answers, and the remedy."""
    return (
        f"Heroku's router cuts answers that are silent for {_HEROKU_LIMIT_S} s. Let clients stream: the gateway"
        f" then sends something every {get_settings().stream_heartbeat_s:g} s (STREAM_HEARTBEAT)."
    )


def _load_leniently(values: dict[str, str]) -> tuple[Settings, list[str]]:
    """Returns the settings, with defaults for wrong ones, and all mistakes; removes wrong ones from `values`."""
    mistakes, unreadable = [], set()
    for row in fields(Settings):
        name = row.metadata["name"]
        if (text := values.get(name, "").strip()) and (mistake := _find_mistake(row.metadata["parse"], name, text)):
            mistakes.append(mistake)
            unreadable.add(name)
            del values[name]
    while True:
        try:
            return load_settings(values), mistakes
        except SettingsError as error:  # Two settings that are valid by themselves contradict each other.
            named = set(setting_names()) & set(_WORD.findall(str(error)))
            if named.isdisjoint(unreadable):  # Otherwise only the default of an unreadable one contradicts the other.
                mistakes.append(str(error))
            for name in named:
                values.pop(name, None)


def _find_mistake(parse: object, name: str, text: str) -> str | None:
    assert callable(parse)
    try:
        parse(name, text)
    except SettingsError as error:
        return str(error)
    return None


def _check_names(values: dict[str, str]) -> Iterator[Result]:
    """Warns of near misses of setting names, in the files and in the environment."""
    for name, near in find_misspelt_names(values).items():
        yield warn("settings", f"{name} is not a setting, so it has no effect. Did you mean {near}?")


def _check_platform(settings: Settings) -> Iterator[Result]:
    if "worker-class" in os.environ.get(_GUNICORN_ARGUMENTS, "") or " -k" in f" {os.environ.get(_GUNICORN_ARGUMENTS)}":
        yield fail(
            "gunicorn",
            f"{_GUNICORN_ARGUMENTS} names a worker class, and the gateway works with its own one only. Remove it.",
        )
    if "DYNO" in os.environ:
        yield warn("platform", describe_heroku_limit())
        if settings.graceful_timeout_s >= _HEROKU_LIMIT_S:
            yield fail(
                "platform",
                f"Heroku kills a process {_HEROKU_LIMIT_S} s after SIGTERM. Set GRACEFUL_TIMEOUT to less, such as 25.",
            )
        if not settings.journal_dir.is_relative_to("/mnt"):
            yield warn(
                "platform", "Heroku's disks do not survive a restart: records that are not shipped by then are lost."
            )
