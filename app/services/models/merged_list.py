"""`GET /v1/models`: one list for the SDKs of both OpenAI and Anthropic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from threading import Lock
from typing import NamedTuple

import msgspec

from app.config import ALL_GATEWAYS
from app.errors import BadRequest
from app.runtime import Component, Runtime, get_component
from app.services.models.entry import Allows, Model
from app.services.models.merged_model import ALIAS_PREFIX, MergedModel, make_merged_model
from app.services.models.representations import Lists, Rendered, RenderedCache, get_lists, make_digest
from app.yielding import with_pauses

# Creating and encoding this many entries takes 2 ms.
_SLICE_ENTRIES = 300


# A name in the list, and its model; a MergedModel if the operator gave the name.
_Named = tuple[str, Model | MergedModel]


class PageQuery(NamedTuple):
    """The requested part of the list.

    Attributes:
        limit: the most models; None for all.
        after_id, before_id: the id before the part, or after it; empty for the beginning.
        with_aliases: whether each model is followed by its alias.
        patterns: the patterns that model names must match (`Policy.models`); () for all models.
    """

    limit: int | None
    after_id: str
    before_id: str
    with_aliases: bool
    patterns: tuple[tuple[str, ...], ...] = ()


class _Names(Component):
    """The models of all lists with their listed names, built once for each state of the lists."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self._lock = Lock()
        self._state: Hashable = None
        self._names: list[tuple[str, Model]] = []

    def get(self, lists: Lists) -> list[tuple[str, Model]]:
        """Returns (name, model) for each; a model that several providers serve is listed as `<provider>/<id>`."""
        with self._lock:
            if self._state != lists.state:
                self._names, self._state = _make_names(lists), lists.state
        return self._names


def _make_names(lists: Lists) -> list[tuple[str, Model]]:
    counts = Counter(model.id for _, models in lists.available for model in models)
    return [
        (model.id if counts[model.id] == 1 else f"{provider.name}/{model.id}", model)
        for provider, models in lists.available
        for model in with_pauses(models, slice_items=_SLICE_ENTRIES)
    ]


class OwnModels(NamedTuple):
    """Names that the operator gave to models. They are listed first, and precede a provider's model of the same name.

    Attributes:
        version: changes when any of them does.
        names: all of them, in lower case.
        make: returns them as seen by the caller; it depends only on the lists and `PageQuery.patterns`.
    """

    version: str
    names: Collection[str]
    make: Callable[[], Sequence[MergedModel]]


def render_merged_list(query: PageQuery, allows: Allows | None = None, own: OwnModels | None = None) -> Rendered:
    """Returns models of all configured providers, each under a name that can be sent unchanged.

    Args:
        query: the requested part of the list.
        allows: whether a model is listed; it depends only on `query.patterns`. None for all.
        own: names that the operator gave to models; None for none.

    Raises:
        BadRequest: `after_id` or `before_id` is not in the list.
        ConfigurationMissing: no provider's key is set.
        Unavailable: there is no list.
    """
    lists = get_lists(ALL_GATEWAYS)
    state = lists.state if own is None else (lists.state, own.version)
    return get_component(RenderedCache).get(query, state, lambda: _render(query, lists, allows, own, state))


def _render(query: PageQuery, lists: Lists, allows: Allows | None, own: OwnModels | None, state: Hashable) -> Rendered:
    listed = get_component(_Names).get(lists)
    allowed = listed
    if allows is not None:
        checked = with_pauses(listed, slice_items=_SLICE_ENTRIES)
        allowed = [(name, model) for name, model in checked if allows(model.source_gateway, model.id)]
    names: list[_Named] = [*allowed]
    if own is not None:
        others = [named for named in names if named[0].lower() not in own.names]
        names = [*((each.id, each) for each in own.make()), *others]
    if query.with_aliases:
        names = list(_add_aliases(names, set() if own is None else {name.lower() for name, _ in listed}))
    start, end = _find_page(names, query)
    page = names[start:end]
    entries = [_encode(_make_entry(*named)) for named in with_pauses(page, slice_items=_SLICE_ENTRIES)]
    more = start > 0 if query.before_id else end < len(names)
    ends = {"first_id": page[0][0], "last_id": page[-1][0]} if page else {"first_id": None, "last_id": None}
    tail = msgspec.json.encode({"has_more": more, **ends})
    body = b'{"object":"list","data":[%b],%b' % (b",".join(entries), tail[1:])
    return Rendered(f'"{make_digest(query, state)}"', body)


def _add_aliases(names: list[_Named], listed: Collection[str]) -> Iterator[_Named]:
    """Yields each name, followed by the one that begins with `anthropic/`.

    Args:
        names: the names.
        listed: all names in the providers' lists, in lower case. The operator's own names do not get such a name,
            because it belongs to another model.
    """
    for name, model in with_pauses(names):
        yield name, model
        if not (isinstance(model, MergedModel) and ALIAS_PREFIX + name in listed):
            yield ALIAS_PREFIX + name, model


def _make_entry(name: str, model: Model | MergedModel) -> MergedModel:
    return make_merged_model(model, name) if isinstance(model, Model) else msgspec.structs.replace(model, id=name)


def _find_page(names: list[_Named], query: PageQuery) -> tuple[int, int]:
    """Returns the beginning and the end of the page; `before_id` asks for the models right before it."""
    limit = query.limit or len(names)
    if query.before_id:
        end = _find(names, query.before_id, "before_id")
        return max(0, end - limit), end
    start = _find(names, query.after_id, "after_id") + 1 if query.after_id else 0
    return start, min(start + limit, len(names))


def _find(names: list[_Named], name: str, param: str) -> int:
    for position, (each, _) in enumerate(names):
        if each == name:
            return position
    raise BadRequest(f"{param} is {name[:100]!r}; it must be an id from this list.", param=param)


_encode = msgspec.json.Encoder().encode
