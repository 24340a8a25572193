"""`GET /v1/models`: one list that the SDKs of OpenAI and of Anthropic both read; each entry has the keys of both.

Claude Code offers only models whose names begin with `anthropic`, so each has an alias that does, listed only for
clients of Anthropic's API: others would see each model twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable
from threading import Lock
from typing import NamedTuple

import msgspec

from app.config import ALL_GATEWAYS
from app.errors import BadRequest
from app.runtime import Component, Runtime, get_component
from app.services.models.entry import Model
from app.services.models.representations import Lists, Rendered, RenderedCache, get_lists, make_digest
from app.yielding import with_pauses

ALIAS_PREFIX = "anthropic/"

# Making and encoding so many entries takes 2 ms.
_SLICE_ENTRIES = 300


class MergedModel(msgspec.Struct, frozen=True, gc=False):
    """A model as both APIs show it; null where the catalog does not know.

    Attributes:
        created, created_at: one moment, in seconds since 1970 and in RFC 3339; 1970 if unknown, as SDKs require a time.
        owned_by: the organisation in its id, or else the provider.
        max_input_tokens, context_length: the tokens that fit into its context.
        max_tokens: the most output tokens; null if only the context limits them.
    """

    id: str
    created: int
    created_at: str
    owned_by: str
    display_name: str
    max_input_tokens: int | None
    context_length: int | None
    max_tokens: int | None
    object: str = "model"
    type: str = "model"
    lifecycle: str = "active"


class PageQuery(NamedTuple):
    """Which part of the list is asked for.

    Attributes:
        limit: how many models at most; None for all.
        after_id, before_id: the id that the part follows, or that follows it; empty for the beginning.
        with_aliases: whether each model is followed by its alias.
        patterns: what the names of the models must match (`Policy.models`); () for all models.
    """

    limit: int | None
    after_id: str
    before_id: str
    with_aliases: bool
    patterns: tuple[tuple[str, ...], ...] = ()


class _Names(Component):
    """The models of all lists with the names under which they are listed, made once for each state of the lists."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._lock = Lock()
        self._state: Hashable = None
        self._names: list[tuple[str, Model]] = []

    def get(self, lists: Lists, *, with_aliases: bool) -> list[tuple[str, Model]]:
        """Returns (name, model) for each; a model that several providers serve is listed as `<provider>/<id>`."""
        with self._lock:
            if self._state != lists.state:
                self._names, self._state = _make_names(lists), lists.state
        if not with_aliases:
            return self._names
        return [(prefix + name, model) for name, model in with_pauses(self._names) for prefix in ("", ALIAS_PREFIX)]


def _make_names(lists: Lists) -> list[tuple[str, Model]]:
    counts = Counter(model.id for _, models in lists.available for model in models)
    return [
        (model.id if counts[model.id] == 1 else f"{provider.name}/{model.id}", model)
        for provider, models in lists.available
        for model in with_pauses(models, slice_items=_SLICE_ENTRIES)
    ]


# (provider's name, the model's id there) → whether the caller may use it
Allows = Callable[[str, str], bool]


def render_merged_list(query: PageQuery, allows: Allows | None = None) -> Rendered:
    """Returns models of all configured providers, each under a name that can be sent as it is.

    Args:
        query: which part of the list.
        allows: whether a model is listed; it depends on nothing but `query.patterns`. None for all.

    Raises:
        BadRequest: `after_id` or `before_id` is not in the list.
        ConfigurationMissing: no provider's key is set.
        Unavailable: there is no list.
    """
    lists = get_lists(ALL_GATEWAYS)
    return get_component(RenderedCache).get(query, lists.state, lambda: _render(query, lists, allows))


def _render(query: PageQuery, lists: Lists, allows: Allows | None) -> Rendered:
    names = get_component(_Names).get(lists, with_aliases=query.with_aliases)
    if allows is not None:
        listed = with_pauses(names, slice_items=_SLICE_ENTRIES)
        names = [(name, model) for name, model in listed if allows(model.source_gateway, model.id)]
    start, end = _find_page(names, query)
    page = names[start:end]
    entries = [_encode(make_merged_model(model, name)) for name, model in with_pauses(page, slice_items=_SLICE_ENTRIES)]
    more = start > 0 if query.before_id else end < len(names)
    ends = {"first_id": page[0][0], "last_id": page[-1][0]} if page else {"first_id": None, "last_id": None}
    tail = msgspec.json.encode({"has_more": more, **ends})
    body = b'{"object":"list","data":[%b],%b' % (b",".join(entries), tail[1:])
    return Rendered(f'"{make_digest(query, lists.state)}"', body)


def _find_page(names: list[tuple[str, Model]], query: PageQuery) -> tuple[int, int]:
    """Returns where the page begins and ends; `before_id` asks for the models right before it."""
    limit = query.limit or len(names)
    if query.before_id:
        end = _find(names, query.before_id, "before_id")
        return max(0, end - limit), end
    start = _find(names, query.after_id, "after_id") + 1 if query.after_id else 0
    return start, min(start + limit, len(names))


def _find(names: list[tuple[str, Model]], name: str, param: str) -> int:
    for position, (each, _) in enumerate(names):
        if each == name:
            return position
    raise BadRequest(f"{param} is {name[:100]!r}; it must be an id from this list.", param=param)


_encode = msgspec.json.Encoder().encode


def make_merged_model(model: Model, name: str) -> MergedModel:
    """Returns the form of a model that the SDKs of OpenAI and of Anthropic read."""
    created = model.created or 0
    return MergedModel(
        id=name,
        created=created,
        created_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        owned_by=model.provider_slug if "/" in model.id else model.source_gateway,
        display_name=model.name,
        max_input_tokens=model.context_length,
        context_length=model.context_length,
        max_tokens=model.max_output_tokens,
    )
