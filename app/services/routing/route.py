"""Makes the route of a request: its possible targets and their order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from app.config import Settings
from app.errors import BadRequest, GatewayError, NotFound, PermissionDenied
from app.lenient_json import encode
from app.services.aliases import Alias, find_alias, split_target
from app.services.endpoints import SORT_SUFFIXES, Endpoint, ProviderChoice, Sort
from app.services.models import Allows
from app.services.providers import get_provider
from app.services.routing.candidates import (
    Candidates,
    find_at_provider,
    find_candidates,
    get_missing_list,
    is_accepted,
)
from app.services.routing.names import make_not_allowed
from app.services.routing.target import Target

# A request is never sent to more targets than this. Records keep as many attempts.
MAX_TARGETS = 10

# Longer values that an alias sets are cut in the header that names them.
_MAX_SHOWN_CHARACTERS = 60

# Errors caused by the caller's own text, which other names in the request do not excuse.
_MISTAKES = frozenset({"ambiguous_model", "unknown_provider"})


class Asked(NamedTuple):
    """The parts of a request that its route depends on, besides the lists of models, the aliases and the settings.

    Attributes:
        endpoint: the name of the endpoint.
        model, provider, models: the request's fields.
        patterns: the model patterns of the key (`Policy.models`).
    """

    endpoint: str
    model: str
    provider: str | ProviderChoice | None
    models: tuple[str, ...] | None
    patterns: tuple[tuple[str, ...], ...]


class Group(NamedTuple):
    """Targets that are compared with each other. All targets of a group precede those of the next.

    Attributes:
        targets: at least one.
        sort: the sort criterion; None keeps the order, or follows the weights if there are some.
    """

    targets: tuple[Target, ...]
    sort: Sort | None = None


class Missing(NamedTuple):
    """A name in the request or an alias without a target now, and the code of the error with the reason."""

    name: str
    code: str


class Route:
    """The targets of a request.

    Attributes:
        target: the first.
        is_fixed: whether it is the only one, so that no request needs a decision.
        groups: all targets, in groups.
        missing: names without a target, beside others that have one.
        choice: the caller's choice of providers; None without one.
        tries_one: whether only the best target may be tried.
    """

    __slots__ = ("choice", "groups", "is_fixed", "missing", "ranked", "ranked_until_s", "target", "tries_one")

    def __init__(
        self, groups: Sequence[Group], missing: Sequence[Missing] = (), choice: ProviderChoice | None = None
    ) -> None:
        self.groups = tuple(groups)
        self.missing = tuple(missing)
        self.choice = choice
        self.target = groups[0].targets[0]
        is_filtered = choice is not None and (choice.max_price is not None or choice.require_parameters is True)
        self.is_fixed = not missing and not is_filtered and sum(len(group.targets) for group in groups) == 1
        self.tries_one = choice is not None and choice.allow_fallbacks is False and not choice.order
        # The order, cached for a moment by `order_targets`.
        self.ranked: Sequence[Sequence[tuple[float, Target]]] = ()
        self.ranked_until_s = 0.0


def make_route(endpoint: Endpoint, asked: Asked, allows: Allows | None, settings: Settings) -> Route:
    """Returns the route of a request.

    Names without a target are left out if another one has a target.

    Args:
        endpoint: the endpoint that was called.
        asked: the parts of the request that the route depends on.
        allows: the models that the caller may use; None for all.
        settings: the order of targets, and whether equivalents are targets, if the request does not say.

    Raises:
        BadRequest: a provider is unknown, none that may be used serves the endpoint, or a name is ambiguous.
        ConfigurationMissing, NotFound, PermissionDenied, Unavailable: see `find_candidates`; for the first name, if no
            name has a target.
    """
    maker = _RouteMaker(endpoint, asked.provider, allows, settings)
    for name in dict.fromkeys((asked.model, *(asked.models or ()))):
        maker.add_name(name)
    return maker.make()


class _RouteMaker:
    def __init__(
        self,
        endpoint: Endpoint,
        provider: str | ProviderChoice | None,
        allows: Allows | None,
        settings: Settings,
    ) -> None:
        self._endpoint = endpoint
        self._provider_name = provider if isinstance(provider, str) else None
        self._choice = provider if isinstance(provider, ProviderChoice) else None
        self._chosen_sort = None if self._choice is None else self._choice.sort
        self._allows = allows
        self._sort = settings.routing_sort
        self._crosses = self._choice is not None or settings.routing_equivalents
        self._groups: list[Group] = []
        self._missing: list[Missing] = []
        self._first_error: GatewayError | None = None
        self._place = 0
        if self._choice is not None:
            _raise_if_unknown(self._choice)

    def add_name(self, name: str) -> None:
        """Adds the targets of a name in the request."""
        bare, sort = _split_suffix(name)
        alias = find_alias(bare)
        if alias is not None:
            self._add_alias(alias, sort)
            return
        try:
            candidates = self._find(bare)
        except GatewayError as error:
            self._miss(name, error)
            return
        self._add(name, candidates, sort or self._chosen_sort)

    def _find(self, name: str) -> Candidates:
        if self._provider_name is not None:
            return Candidates((find_at_provider(name, self._endpoint, self._provider_name, self._allows),))
        return find_candidates(name, self._endpoint, self._choice, self._allows, crosses=self._crosses)

    def _add(self, name: str, candidates: Candidates, sort: Sort | None) -> None:
        """Adds the groups of one model."""
        named, elsewhere = self._accept(candidates.named), self._accept(candidates.elsewhere)
        self._place += 1
        if not named and not elsewhere:
            unloaded = get_missing_list(self._endpoint, self._choice)
            self._miss(name, unloaded or _make_no_target(name, (*candidates.named, *candidates.elsewhere)))
        elif candidates.is_at_home and named and sort is None:
            self._group(named, self._sort)
            self._group(elsewhere, self._sort)
        else:
            self._group((*named, *elsewhere), sort or self._sort)

    def _accept(self, targets: Sequence[Target]) -> list[Target]:
        """Returns the targets that the caller's choice accepts, with their place."""
        choice = self._choice
        accepted = [target for target in targets if choice is None or is_accepted(target.provider, choice)]
        if self._provider_name is not None:
            accepted = [target for target in accepted if target.provider.name == self._provider_name.lower()]
        return [target._replace(place=self._place) for target in accepted]

    def _group(self, targets: Sequence[Target], sort: Sort | None) -> None:
        """Adds targets as one group, after those named in the caller's `order`."""
        rest = list(targets)
        for name in () if self._choice is None else self._choice.order or ():
            first = tuple(target for target in rest if target.provider.name == name.lower())
            if first:
                self._groups.append(Group(first, sort))
            rest = [target for target in rest if target.provider.name != name.lower()]
        if rest:
            self._groups.append(Group(tuple(rest), sort))

    def _add_alias(self, alias: Alias, sort: Sort | None) -> None:
        """Adds the targets of an alias: in its order, or as one group if they are sorted or weighted."""
        found: list[Target] = []
        overrides = _pick_overrides(alias, self._endpoint)
        applied = tuple(f"{name}={_show(value)}" for name, value in overrides.items())
        for aliased in alias.targets:
            try:
                target = self._find_aliased(aliased.name)
            except PermissionDenied:
                # The error names the alias, because the caller must not learn its models.
                self._miss(aliased.name, make_not_allowed(alias.name))
                continue
            except GatewayError as error:
                self._miss(aliased.name, error)
                continue
            for accepted in self._accept([target]):
                found.append(accepted._replace(weight=aliased.weight, overrides=overrides, applied=applied))
            self._place += 1
        sort = sort or self._chosen_sort or alias.sort
        if not found:
            self._miss(alias.name, _make_no_target(alias.name, ()))
        elif sort is not None or any(target.weight is not None for target in found):
            self._group(found, sort)
        else:
            for target in found:
                self._group([target], None)

    def _find_aliased(self, name: str) -> Target:
        """Returns the target that an alias names, with its provider."""
        split = split_target(name)
        if split is None:
            raise NotFound(f"{name!r} names no provider.", param="model", code="model_not_found")
        return find_at_provider(split[1], self._endpoint, split[0].name, self._allows)

    def _miss(self, name: str, error: GatewayError) -> None:
        if error.code in _MISTAKES:
            raise error
        self._missing.append(Missing(name, error.code or error.type))
        self._first_error = self._first_error or error

    def make(self) -> Route:
        """Returns the route; raises the first error if there is no target."""
        if not self._groups:
            assert self._first_error is not None
            raise self._first_error
        return Route(_bound(self._groups), self._missing, self._choice)


def _pick_overrides(alias: Alias, endpoint: Endpoint) -> dict[str, Any]:
    """Returns an alias's fields for an endpoint: all if it generates text, else only those that it documents."""
    documented = endpoint.body.__struct_fields__
    return {
        name: value
        for name, value in alias.overrides.items()
        if endpoint.output_field is not None or name in documented
    }


def _show(value: Any) -> str:
    """Returns a value in a form that a header can have."""
    return encode(value).decode("ascii", "replace").replace("\ufffd", "?")[:_MAX_SHOWN_CHARACTERS]


def _bound(groups: Iterable[Group]) -> list[Group]:
    """Returns the groups of the first MAX_TARGETS targets, each target once."""
    bounded: list[Group] = []
    known: set[tuple[str, str]] = set()
    for group in groups:
        targets = []
        for target in group.targets:
            key = target.provider.name, target.model
            if key not in known and len(known) < MAX_TARGETS:
                known.add(key)
                targets.append(target)
        if targets:
            bounded.append(group._replace(targets=tuple(targets)))
    return bounded


def _split_suffix(name: str) -> tuple[str, Sort | None]:
    for suffix, sort in SORT_SUFFIXES.items():
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix), sort
    return name, None


def _raise_if_unknown(choice: ProviderChoice) -> None:
    for field, names in (("order", choice.order), ("only", choice.only), ("ignore", choice.ignore)):
        for name in names or ():
            get_provider(name, param=f"provider.{field}")


def _make_no_target(name: str, targets: Sequence[Target]) -> BadRequest:
    titles = ", ".join(dict.fromkeys(target.provider.name for target in targets))
    advice = f"Accept one of {titles} there, or leave `provider` out." if titles else "Leave `provider` out."
    return BadRequest(
        f"None of the providers that `provider` accepts serves {name!r}. {advice}",
        param="provider",
        code="no_target",
    )
