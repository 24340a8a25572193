"""A request under limits: its reservations, and its charge at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from msgspec import UNSET

from app.errors import GatewayError
from app.limit_errors import LimitReached
from app.logs import log_event
from app.services.endpoints import Endpoint
from app.services.inference.adaptation import UpstreamRequest
from app.services.inference.billing import may_be_billed
from app.services.inference.ceiling import bound_usage, find_fitting, find_most, make_ceiling, name_field, to_units
from app.services.journal import ActivityRecord
from app.services.limits import (
    NOTHING,
    Binding,
    Ceiling,
    LimitWaiting,
    Purse,
    Reservation,
    Taken,
    Used,
    format_amount,
    is_at_most,
)
from app.services.providers import Provider

# An amount in USD with at most this many characters has at most 12 digits after the point, so none of them is below
# 10^-12 USD.
_MAX_EXACT_CHARACTERS = 14

# The charge of a sent request if limits count only requests.
_ONE: Used = (0, 0, 1, None, 0)


class LimitedRequest(Reservation):
    """The limits of one request, from before its body is read until its record is written.

    Make it with `Limits.enter`.

    Attributes:
        is_unbilled: whether the last attempt failed in a way that costs nothing, or the next one has not begun. The
            dispatcher sets it to False when it begins one.
        received_bytes: the bytes of a stream that have arrived; None before its end, and for other responses.
        endpoint, request: the called endpoint and the request as sent; None until known, and if not needed.
        has_ceiling: whether its ceiling was made. A limit of requests alone needs none.
        most_cost, most_tokens: the highest cost of the attempt, in 10^-12 USD, and its most tokens; None if not known.
        ceilings: the ceilings of the requests for several targets, by identity; None with one target.
        charge: the final use of the request.
        headers: the response headers about the limits; shared with other responses.
        earlier_cost, earlier_tokens: the charge for the attempts before the current one.
    """

    __slots__ = (
        "ceilings", "charge", "earlier_cost", "earlier_tokens", "endpoint", "has_ceiling", "headers", "is_unbilled",
        "most_cost", "most_tokens", "received_bytes", "request",
    )  # fmt: skip

    def __init__(self, waiting: LimitWaiting, binding: Binding, held: list[Taken], purse: Purse | None = None) -> None:
        # Sets the fields of Reservation too: a call of its method would take as long as setting all of them.
        self.waiting, self.binding, self.held, self.purse = waiting, binding, held, purse
        self.reserved_of = None
        self.period_ids = []
        self.ceiling_cost = self.ceiling_tokens = self.rate_tokens = 0
        self.is_silent = False
        self.is_unbilled = False
        self.received_bytes: int | None = None
        self.endpoint: Endpoint | None = None
        self.request: UpstreamRequest | None = None
        self.has_ceiling = False
        self.most_cost: int | None = None
        self.most_tokens: int | None = None
        self.ceilings: dict[int, Ceiling] | None = None
        self.charge = NOTHING
        self.headers: Mapping[str, str] | None = None
        self.earlier_cost = self.earlier_tokens = 0

    def reserve_for(self, endpoint: Endpoint, request: UpstreamRequest, record: ActivityRecord) -> None:
        """Reserves the ceiling of a request that is ready to be sent, and writes it to the record as the charge.

        The request is charged this if the worker is killed before it ends.

        Raises:
            GatewayError: a limit has no room, or the ceiling is not known.
        """
        binding = self.binding
        if not binding.metered:
            self.reserved_of = self.purse  # There is nothing to reserve.
            return
        self.endpoint, self.request, now_s = endpoint, request, time.monotonic()
        cost, tokens, rate_tokens = find_most(binding.policy, endpoint, request, now_s)
        self.most_cost, self.most_tokens, self.has_ceiling = cost, tokens, True
        try:
            self.hold(cost, tokens, rate_tokens, self._find_fitting, now_s)
        except LimitReached as error:
            name_field(endpoint, error)
            raise
        if self.period_ids:
            record.budget_periods = self.period_ids
            if cost is not None:
                record.charged_usd = f"{cost}e-12"  # PostgreSQL reads this too; it takes a third of the time.
            if tokens is not None:
                record.charged_tokens = tokens

    def reserve_dearest(
        self, endpoint: Endpoint, requests: Sequence[UpstreamRequest], record: ActivityRecord
    ) -> tuple[list[UpstreamRequest], list[tuple[UpstreamRequest, GatewayError]]]:
        """Reserves the ceiling of the dearest of several requests, only one of which will be served.

        Args:
            endpoint: the endpoint that was called.
            requests: one for each target, at least one, in the order in which they may be sent.
            record: the record.

        Returns:
            The requests that may be sent, and the others, each with the error that explains why: requests without a
            known ceiling and, if the limits have no room for them, requests that are dearer than the first.

        Raises:
            GatewayError: a limit has no room for the first request, or none has a known ceiling.
        """
        self.ceilings = ceilings = {}
        usable: list[UpstreamRequest] = []
        others: list[tuple[UpstreamRequest, GatewayError]] = []
        for request in requests:
            try:
                ceilings[id(request)] = make_ceiling(self.binding.policy, endpoint, request)
                usable.append(request)
            except GatewayError as error:
                others.append((request, error))
        if not usable:
            raise others[0][1]
        self.endpoint = endpoint
        self._use(usable[0])
        try:
            self._reserve(endpoint, [ceilings[id(request)] for request in usable])
        except LimitReached as error:
            first = ceilings[id(usable[0])]
            dearer = [request for request in usable if not is_at_most(ceilings[id(request)], first)]
            if not dearer:
                raise
            self._reserve(endpoint, [first])
            usable = [each for each in usable if is_at_most(ceilings[id(each)], first)]
            others += [(request, error.with_traceback(None)) for request in dearer]
        self._write_ceiling(record)
        return usable, others

    def _reserve(self, endpoint: Endpoint, ceilings: Sequence[Ceiling]) -> None:
        try:
            self.reserve(ceilings)
        except LimitReached as error:
            name_field(endpoint, error)
            raise

    def _use(self, request: UpstreamRequest) -> None:
        ceiling = None if self.ceilings is None else self.ceilings.get(id(request))
        self.request, self.has_ceiling = request, ceiling is not None
        self.most_cost, self.most_tokens = (None, None) if ceiling is None else (ceiling.cost, ceiling.tokens)

    def _write_ceiling(self, record: ActivityRecord) -> None:
        """Writes the charge in case the request never ends: the current attempt's ceiling, and earlier charges."""
        if self.period_ids and self.has_ceiling:
            cost, tokens = self.most_cost, self.most_tokens
            record.budget_periods = self.period_ids
            record.charged_usd = UNSET if cost is None else f"{self.earlier_cost + cost}e-12"
            record.charged_tokens = UNSET if tokens is None else self.earlier_tokens + tokens

    def fail_attempt(self, error: Exception) -> None:
        """Notes that an attempt got an error or no response; it may be billed all the same."""
        self.is_unbilled = not may_be_billed(error)

    def repeat(self, record: ActivityRecord, request: UpstreamRequest | None = None) -> bool:
        """Prepares another attempt. If the failed one may be billed, both ceilings are held and make up the charge.

        Args:
            record: the record, with the usage of the failed attempt if known.
            request: the request for another target; None for the same one.

        Returns:
            Whether the record has changed, so that its start must be written again.

        Raises:
            GatewayError: a limit has no room for a second ceiling.
        """
        is_billed = not self.is_unbilled
        if is_billed and self.has_ceiling:
            self.add_attempt(Ceiling(self.most_cost, self.most_tokens, None, self._find_fitting))
            cost, tokens = self._get_used(record)
            self.earlier_cost += cost if cost is not None else self.most_cost or 0
            self.earlier_tokens += tokens if tokens is not None else self.most_tokens or 0
        if request is not None:
            self._use(request)
        self._write_ceiling(record)
        self.is_unbilled, self.received_bytes = True, None
        return is_billed and bool(self.period_ids)

    def _find_fitting(self, cost_room: int, token_room: int) -> int | None:
        """See `Ceiling.fits`."""
        if self.endpoint is None or self.request is None:
            return None
        return find_fitting(self.endpoint, self.request, cost_room, token_room)

    def write_charge(
        self, record: ActivityRecord, note_fault: Callable[[str, Exception], None], *, is_sent: bool
    ) -> None:
        """Writes the charge of the request to the record, right before the record is written for the last time.

        Args:
            record: the record.
            note_fault: called with "charge" and the error if a mistake in the gateway makes that fail; then the charge
                is the reserved amount, which the record has had since its start.
            is_sent: whether a provider may have received the request.
        """
        if not is_sent:
            if record.budget_periods:
                record.budget_periods, record.charged_tokens = UNSET, self.charge[1]
                record.charged_usd = f"{self.charge[0]}e-12"
            return
        text = None
        usd, prompt, output = record.cost_usd, record.prompt_tokens, record.completion_tokens
        try:
            if record.usage_source == "provider" and usd is not None and prompt is not None and output is not None:
                used = prompt + output  # Almost always.
                cost, tokens = self.earlier_cost + to_units(usd), self.earlier_tokens + used
                self.charge = cost, tokens, 1, used, 0
                if not self.earlier_cost and len(usd) <= _MAX_EXACT_CHARACTERS:
                    text = usd
            else:
                cost, tokens, *_ = self.charge = self._estimate_charge(record)
        except Exception as error:
            most_cost, most_tokens = self.most_cost or 0, self.most_tokens or 0
            self.charge = self.earlier_cost + most_cost, self.earlier_tokens + most_tokens, 1, None, 0
            self._write_ceiling(record)
            note_fault("charge", error)
            return
        if not record.budget_periods:
            return
        cost_bound, token_bound = self.ceiling_cost, self.ceiling_tokens
        record.charged_usd = f"{cost}e-12" if text is None else text
        record.charged_tokens = tokens
        if (cost_bound is not None and cost > cost_bound) or (token_bound is not None and tokens > token_bound):
            self._report_excess(record)

    def _report_excess(self, record: ActivityRecord) -> None:
        """Logs a use above the ceiling. It is charged in full."""
        log_event(
            "ceiling_exceeded",
            level="warning",
            request_id=record.request_id,
            gateway=record.gateway,
            model=record.model_served,
            charged_usd=format_amount(self.charge[0], "usd"),
            charged_tokens=self.charge[1],
            ceiling_usd=self.ceiling_usd,
            ceiling_tokens=self.ceiling_tokens,
        )

    def _estimate_charge(self, record: ActivityRecord) -> Used:
        """Returns the use of the last attempt, as far as it is known, and the charge for those before."""
        if self.endpoint is None:
            return _ONE  # No limit counts its use.
        cost, tokens = self._get_used(record)
        rate_tokens = tokens
        if tokens is None:
            rate_tokens, tokens = (0, 0) if self.is_unbilled else (None, self.most_tokens or 0)
        if cost is None:
            cost = 0 if self.is_unbilled else self.most_cost or 0
        return self.earlier_cost + cost, self.earlier_tokens + tokens, 1, rate_tokens, 0

    def _get_used(self, record: ActivityRecord) -> tuple[int | None, int | None]:
        """Returns the last attempt's cost and tokens, by the provider or the highest possible; None for the ceiling."""
        cost = None if record.cost_usd is None else to_units(record.cost_usd)
        tokens = None
        if record.prompt_tokens is not None and record.completion_tokens is not None:
            tokens = record.prompt_tokens + record.completion_tokens
        if record.usage_source != "counted" or self.endpoint is None or self.request is None:
            return cost, tokens
        most_cost, most_tokens = bound_usage(self.endpoint, self.request, self.received_bytes)
        return max(cost or 0, most_cost), max(tokens or 0, most_tokens)

    def renew_headers(self, headers: dict[str, str], provider: Provider, now_s: float) -> None:
        """Renews the headers about the limits, and renames those about the provider's own limits.

        Args:
            headers: the response headers so far; changed in place.
            provider: the provider that sent them.
            now_s: the time, on the monotonic clock.
        """
        binding = self.binding
        self.headers = binding.headers if now_s < binding.headers_until_s else self.get_headers()
        if binding.rates and not provider.own_limit_headers.isdisjoint(headers):
            for name in [name for name in headers if name in provider.own_limit_headers]:
                headers[f"x-upstream-{name.removeprefix('x-')}"] = headers.pop(name)
