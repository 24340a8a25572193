"""The state of one process: its settings, and one instance of each component that keeps state between requests.

A component keeps connections, caches, counters or threads. It is created at its first use and lives as long as the
runtime. Settings never change within a runtime: after a fork, or with other settings (as in tests), there is a new,
empty runtime. So no component has to check whether its state is still current.

    journal = get_component(Journal)     # this process's journal, made now if this is the first use
"""

from __future__ import annotations

import os
import threading
import uuid
from typing import Any, TypeVar

from app.config import Settings, get_secrets, load_settings
from app.logs import hide_secrets


class Component:
    """Base class of the components; a runtime has one instance of each.

    Attributes:
        runtime: the runtime that the component belongs to; it gives access to other components.
        settings: the settings of the runtime.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.settings = runtime.settings

    def close(self) -> None:
        """Ends threads and closes files and connections, because the runtime is replaced or the process ends."""

    def abandon(self) -> None:
        """Releases resources of the parent process. Called in a forked child, in which none of our threads run."""


C = TypeVar("C", bound=Component)


class Runtime:
    """The state of one process.

    Args:
        settings: the settings that all components use.

    Attributes:
        worker_id: the id of this process in the journal, in the registry of workers, and in its draws from limits.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.worker_id = uuid.uuid4().hex
        hide_secrets(get_secrets(settings))
        self._components: dict[type[Component], Any] = {}
        self._lock = threading.RLock()  # Creating a component may create another one.

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
        """Closes all components, the newest first."""
        while self._components:
            self._components.popitem()[1].close()

    def abandon(self) -> None:
        """Makes all components release resources of the parent process."""
        while self._components:
            self._components.popitem()[1].abandon()


_runtime: Runtime | None = None


def get_runtime() -> Runtime:
    """Returns the runtime of this process; the first call creates one with the settings of the environment.

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
        settings: the settings of the new runtime; None reads them from the environment at the next use.
    """
    global _runtime
    old, _runtime = _runtime, None if settings is None else Runtime(settings)
    if old is not None:
        old.close()


def _renew_in_child() -> None:
    """Gives a forked child a new runtime, because threads do not survive a fork and open files belong to the parent."""
    global _runtime
    if _runtime is not None:
        old, _runtime = _runtime, Runtime(_runtime.settings)
        old.abandon()


os.register_at_fork(after_in_child=_renew_in_child)
