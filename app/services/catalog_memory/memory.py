"""Stores the lists of this process in the background, and warns if the price of a used model rises.

Every worker of every host does so once a minute. Equal lists have equal versions in all of them, so an unchanged list
costs one query each time it is loaded.
"""

from __future__ import annotations

from app.config import SettingsError
from app.db import Database, DatabaseError, describe_error, time_limit
from app.db.catalog import ModelChange, select_used_models
from app.logs import log_event, redact
from app.periodic import PeriodicTask
from app.runtime import Component, Runtime, get_component
from app.services.catalog_memory.facts import find_rises
from app.services.catalog_memory.keeping import keep_list
from app.services.models import ModelList, peek_model_list
from app.services.pricing import Prices
from app.services.providers import PROVIDERS, Provider

LOOK_INTERVAL_S = 60.0
# The first lists arrive some seconds after a start.
FIRST_LOOK_S = 5.0

# Storing the first list of twenty thousand models takes about a second.
_TIME_LIMIT_S = 12.0

# A rise of a price is logged if the model was used within this many days.
USED_DAYS = 7


class CatalogMemory(Component):
    """Stores new lists, each once per process."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._kept: dict[str, ModelList] = {}
        self._has_failed = False
        self._task = PeriodicTask(
            "catalog-memory",
            self.keep_new_lists,
            pause_s=lambda: LOOK_INTERVAL_S,
            on_error=lambda error: log_event("catalog_keeping_failed", level="error", error=error),
            first_pause_s=FIRST_LOOK_S,
        )

    def start(self) -> None:
        """Starts storing lists; later calls do nothing."""
        self._task.start()

    def close(self) -> None:
        """Ends the thread."""
        self._task.close()

    def keep_new_lists(self) -> None:
        """Stores the lists that this process has loaded since the last call; failed ones are tried again."""
        for provider in PROVIDERS.values():
            models = peek_model_list(provider)
            if models is None or models is self._kept.get(provider.name):
                continue
            try:
                with time_limit(_TIME_LIMIT_S):
                    changes = self._keep(provider, models)
            except (DatabaseError, SettingsError) as error:
                if not self._has_failed:
                    log_event("catalog_keeping_failed", level="warning", reason=redact(describe_error(error)))
                self._has_failed = True
                return
            self._has_failed = False
            if changes is not None:
                self._kept[provider.name] = models
                if changes:
                    self._tell(provider, models, changes)

    def _keep(self, provider: Provider, models: ModelList) -> list[ModelChange] | None:
        with self.runtime.get(Database).engine.begin() as connection:
            return keep_list(connection, provider, models, self.runtime.get(Prices))

    def _tell(self, provider: Provider, models: ModelList, changes: list[ModelChange]) -> None:
        log_event("catalog_changed", provider=provider.name, changes=len(changes))
        risen = [
            (change, rises)
            for change in changes
            if change.kind == "price" and (rises := find_rises(change.before or {}, change.after or {}))
        ]
        if not risen:
            return
        with self.runtime.get(Database).read_connection() as connection:
            used = select_used_models(connection, provider.name, USED_DAYS)
        requests: dict[str, int] = {}
        for name, number in used.items():
            # A response may name a model in another form than the list.
            found = models.find(name)
            listed = found[0].id if len(found) == 1 else name
            requests[listed] = requests.get(listed, 0) + number
        for change, rises in risen:
            if change.model in requests:
                before, after = change.before or {}, change.after or {}
                log_event(
                    "model_price_raised",
                    level="warning",
                    provider=provider.name,
                    model=change.model,
                    before={name: before[name] for name in rises},
                    after={name: after[name] for name in rises},
                    requests_of_a_week=requests[change.model],
                )


def start_catalog_memory() -> None:
    """Starts storing the lists of this process in the background. Called once per worker."""
    get_component(CatalogMemory).start()
