"""What one process has: its settings, and one of each component that keeps state between requests.

A component keeps connections, caches, counters or threads. It is made when it is first asked for and lives as long as
the runtime. Settings never change within a runtime: other settings, as in a test, or a fork mean a new runtime with
nothing in it. So no component has to compare what it holds with what is current.

    journal = get_component(Journal)     # this process's journal, made now if this is the first use
"""

from __future__ import annotations

import os
import threading
from typing import Any, TypeVar

from app.config import Settings, load_settings


class Component:
    """Base class of everything that a runtime has one of.

    Attributes:
        runtime: whose component this is; other components are reached through it.
        settings: those of the runtime.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.settings = runtime.settings

    def close(self) -> None:
        """Ends threads and lets go of files and connections. The runtime is replaced, or the process ends."""

    def abandon(self) -> None:
        """Lets go of what belongs to the parent process. Called in a forked child, where no thread of ours runs."""


C = TypeVar("C", bound=Component)


class Runtime:
    """The state of one process.

    Args:
        settings: what all components work with.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._components: dict[type[Component], Any] = {}
        self._lock = threading.RLock()  # A component may ask for another one while it is being made.

    def get(self, kind: type[C]) -> C:
        """Returns the component of this class, made at the first call."""
        component: C | None = self._components.get(kind)
        return self._make(kind) if component is None else component

    def _make(self, kind: type[C]) -> C:
        with self._lock:
            component: C | None = self._components.get(kind)
            if component is None:
                component = self._components[kind] = kind(self)
            return component

    def find(self, kind: type[C]) -> C | None:
        """Returns the component of this class if it has been made, else None."""
        return self._components.get(kind)

    def close(self) -> None:
        """Closes all components, the one made last first."""
        while self._components:
            self._components.popitem()[1].close()

    def abandon(self) -> None:
        """Lets all components let go of what belongs to the parent process."""
        while self._components:
            self._components.popitem()[1].abandon()


_runtime: Runtime | None = None


def get_runtime() -> Runtime:
    """Returns the runtime of this process; without one yet, one with the settings of the environment.

    Raises:
        SettingsError: a setting is malformed.
    """
    global _runtime
    if _runtime is None:
        _runtime = Runtime(load_settings())
    return _runtime


def get_settings() -> Settings:
    """Returns the settings of this process.

    Raises:
        SettingsError: a setting is malformed.
    """
    return get_runtime().settings


def get_component(kind: type[C]) -> C:
    """Returns this process's component of the class `kind`, made at the first call.

    Raises:
        SettingsError: a setting is malformed.
    """
    return get_runtime().get(kind)


def use_settings(settings: Settings | None) -> None:
    """Replaces the runtime of this process with an empty one.

    Args:
        settings: those of the new runtime; None for those of the environment, read at the next use.
    """
    global _runtime
    old, _runtime = _runtime, None if settings is None else Runtime(settings)
    if old is not None:
        old.close()


def _renew_in_child() -> None:
    """Gives a forked child a runtime of its own: threads do not survive a fork, and files are the parent's."""
    global _runtime
    if _runtime is not None:
        old, _runtime = _runtime, Runtime(_runtime.settings)
        old.abandon()


os.register_at_fork(after_in_child=_renew_in_child)
